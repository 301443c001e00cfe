//! Reader for the UCI file format (libuci `file.c`).
