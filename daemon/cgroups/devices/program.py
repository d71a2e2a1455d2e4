"""A device policy compiled to the eBPF program that v2 asks at each open and mknod.

The kernel calls a BPF_PROG_TYPE_CGROUP_DEVICE program with `struct bpf_cgroup_dev_ctx` and takes 1 as
"allowed" (include/uapi/linux/bpf.h; the check is in kernel/bpf/cgroup.c):

    offset 0   access_type   high 16 bits: what is wanted (1 mknod, 2 read, 4 write)
                             low 16 bits: the kind of device (1 block, 2 character)
    offset 4   major
    offset 8   minor

The program is: load the four facts into registers, then a block for each exception that falls through to
`return not default` when everything matches, and at the end `return default`. An exception with access
"rw" of an allow list lets pass whatever asks for a subset of it; an exception of a deny list stops what
asks for any of it. Instructions are those of Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct

from daemon.cgroups.devices.rules import WILDCARD, Device, DevicePolicy

MAX_INSTRUCTIONS = 4096
_ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
_KIND_BITS = {"b": 1, "c": 2}

# Registers by what the program keeps in them. R0 is the result, R1 the context.
_RESULT, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR, _SCRATCH = 0, 1, 2, 3, 4, 5, 6

_LOAD_WORD = 0x61  # dst = *(u32 *)(src + off)
_AND_CONSTANT = 0x54  # dst &= imm, 32 bit
_AND_REGISTER = 0x5C
_RIGHT_SHIFT_CONSTANT = 0x74
_MOVE_CONSTANT = 0xB4
_MOVE_REGISTER = 0xBC
_JUMP_IF_NOT_CONSTANT = 0x56  # if dst != imm, 32 bit compare
_JUMP_IF_NOT_REGISTER = 0x5E
_JUMP_IF_CONSTANT = 0x16  # if dst == imm
_EXIT = 0x95


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    """One 8-byte `struct bpf_insn`; the registers share a byte, the target in its low half."""
    return struct.pack("<BBhI", code, source << 4 | to, offset, constant & 0xFFFFFFFF)


def assemble(policy: DevicePolicy) -> bytes:
    """The whole program, ready for BPF_PROG_LOAD."""
    program = [
        instruction(_LOAD_WORD, _KIND, _CONTEXT, 0),
        instruction(_AND_CONSTANT, _KIND, constant=0xFFFF),
        instruction(_LOAD_WORD, _ACCESS, _CONTEXT, 0),
        instruction(_RIGHT_SHIFT_CONSTANT, _ACCESS, constant=16),
        instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for device, access in policy.exceptions.items():
        program += _exception(device, access, stop=policy.allow_all)
    program += _answer(allowed=policy.allow_all)
    return b"".join(program)


def _answer(*, allowed: bool) -> list[bytes]:
    return [instruction(_MOVE_CONSTANT, _RESULT, constant=int(allowed)), instruction(_EXIT)]


def _exception(device: Device, access: frozenset[str], *, stop: bool) -> list[bytes]:
    """Tests that jump over the answer when one fails; `stop` when the exception denies."""
    tests = [(_JUMP_IF_NOT_CONSTANT, _KIND, 0, _KIND_BITS[device.type])]
    bits = sum(_ACCESS_BITS[letter] for letter in access)
    answer = _answer(allowed=not stop)
    access_test: list[bytes] = []
    if bits != 7:
        jump = (
            instruction(_JUMP_IF_CONSTANT, _SCRATCH, offset=len(answer), constant=0)
            if stop
            else instruction(_JUMP_IF_NOT_REGISTER, _SCRATCH, _ACCESS, offset=len(answer))
        )
        access_test = [
            instruction(_MOVE_REGISTER, _SCRATCH, _ACCESS),
            instruction(_AND_CONSTANT, _SCRATCH, constant=bits),
            jump,
        ]
    for register, number in ((_MAJOR, device.major), (_MINOR, device.minor)):
        if number != WILDCARD:
            tests.append((_JUMP_IF_NOT_CONSTANT, register, 0, number))
    block: list[bytes] = []
    for position, (code, register, source, number) in enumerate(tests):
        left = len(tests) - position - 1 + len(access_test) + len(answer)
        block.append(instruction(code, register, source, left, number))
    return block + access_test + answer
