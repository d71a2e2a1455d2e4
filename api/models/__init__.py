"""The API's own schemas: bodies that come in, answers that go out."""
