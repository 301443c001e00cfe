//! Changes one option of a UCI file and keeps every other byte.
