# Stands in for OpenWrt's rules.mk when cross/package reads the Makefiles of openwrt/ and luci-app/:
# the names that they use, with the meaning that they have there.
INCLUDE_DIR:=$(TOPDIR)/include
CP:=cp -fpR
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_DATA:=install -m0644
INSTALL_CONF:=install -m0600
