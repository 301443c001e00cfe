# What the three stand-ins for firmwares share: their firewall's own rules. They let both local networks
# out by anything, as a router does.

get() { nvram get "$1"; }

# What is read from it is worth nothing: the reading makes the kernel forget its connections.
flush_connections() {
	echo >/dev/flush
	read -r _ </dev/flushed
}

mangle4() {
	cat <<-EOF
		*mangle
		:PREROUTING ACCEPT [0:0]
		:INPUT ACCEPT [0:0]
		:FORWARD ACCEPT [0:0]
		:OUTPUT ACCEPT [0:0]
		:POSTROUTING ACCEPT [0:0]
		COMMIT
	EOF
}

nat4() {
	cat <<-EOF
		*nat
		:PREROUTING ACCEPT [0:0]
		:OUTPUT ACCEPT [0:0]
		:POSTROUTING ACCEPT [0:0]
		-A POSTROUTING -o $(get wan_iface) -j MASQUERADE
		-A POSTROUTING -o $(get tunnel) -j MASQUERADE
		COMMIT
	EOF
}

# For both families.
filter() {
	cat <<-EOF
		*filter
		:INPUT ACCEPT [0:0]
		:FORWARD DROP [0:0]
		:OUTPUT ACCEPT [0:0]
		-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
		-A FORWARD -i $(get lan_ifname) -j ACCEPT
		-A FORWARD -i $(get lan1_ifname) -j ACCEPT
		COMMIT
	EOF
}
