"""BuildKit's wire: messages and services, written anew (*.proto) with its packages, numbers and types.

`make proto` renews the modules (*_pb2.py, *_pb2.pyi, *_grpc.py); a test says when they are behind. Nothing of this
is imported before a BuildKit client comes: protobuf costs a daemon some megabytes.
"""
