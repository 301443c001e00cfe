# Stands in for the feed's rust-package.mk. There is nothing to compile: the program is given.
RUST_ARCH_DEPENDS:=@(rust)
