"""Makes OpenWrt packages (.ipk, .apk) and their indexes without the OpenWrt SDK.

The same input gives the same bytes. What is in a package and what it needs is said by the feed's
Makefiles (openwrt/, luci-app/) alone; `feed` reads them, `ipk`, `apk` and `lmo` know one format each.
"""
