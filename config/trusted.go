package config

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Trusted are the proxies before an app whose word on who the client is is believed.
// The zero value trusts nobody.
type Trusted struct {
	networks []netip.Prefix
	unix     bool
}

// Trust reads the networks and addresses of proxies: 10.0.0.0/8, 192.0.2.1,
// 2001:db8::/32; or unix, which is whoever comes by a unix socket.
func Trust(proxies ...string) (Trusted, error) {
	var t Trusted
	for _, p := range proxies {
		if p == "unix" {
			t.unix = true
			continue
		}
		network, err := network(p)
		if err != nil {
			return Trusted{}, err
		}
		t.networks = append(t.networks, network)
	}
	return t, nil
}

func network(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil || n.Addr().Is4In6():
		return n, wrong("trusted proxies", "%q: want a network such as 10.0.0.0/8, an address, or unix", s)
	case n != n.Masked():
		return n, wrong("trusted proxies", "%q names a host in a network: want %s for the network, or %s for the host", s, n.Masked(), n.Addr())
	}
	return n, nil
}

// ProxiesOf are the trusted proxies that speak the PROXY protocol on the address of a
// name, with ',' between; empty is nobody.
func (c Config) ProxiesOf(name string) string {
	for _, l := range c.Listen {
		if l.ProxyProtocol && cmp.Or(l.Name, l.Address) == name {
			return strings.Join(c.TrustedProxies, ",")
		}
	}
	return ""
}

// CheckTrusted says what is wrong where trusted proxies are named that nobody asks for.
func (f *File) CheckTrusted() error {
	used := f.Serve != nil && (len(f.Serve.Proxy) > 0 || f.HTTP.AccessLog != "")
	for _, l := range f.Listen {
		used = used || l.ProxyProtocol
	}
	if len(f.TrustedProxies) > 0 && !used {
		return wrong("trusted proxies", "%s: nothing here goes by them: want proxy or an access log of serve, or proxy_protocol of an address (--proxy, --proxy-protocol); a program reads X-Forwarded-For itself", strings.Join(f.TrustedProxies, ", "))
	}
	return nil
}

func checkTrusted(s string) error { _, err := Trust(s); return err }

// Has reports whether a connection from peer is a trusted proxy's.
func (t Trusted) Has(peer net.Addr) bool {
	if _, unix := peer.(*net.UnixAddr); unix {
		return t.unix
	}
	return t.has(addressOf(peer))
}

func (t Trusted) has(a netip.Addr) bool {
	for _, n := range t.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// addressOf is the address of a peer, without a zone; the zero Addr where it has none.
func addressOf(peer net.Addr) netip.Addr {
	if tcp, ok := peer.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// PeerOf is the address of whoever has sent a request of net/http's, by its RemoteAddr.
func PeerOf(remote string) net.Addr {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return &net.UnixAddr{Name: remote, Net: "unix"}
}

// Client is who has sent a request that came from peer, whose header has such fields of
// a name, in their order. Of a trusted proxy it is the rightmost address that is no
// trusted proxy's of X-Forwarded-For, or, without that field, of Forwarded (RFC 7239,
// section 5.2); of anybody else peer's own, whatever the fields say. Of entries that are
// no address it believes none, nor what is left of them. It is the zero Addr where
// nobody knows: behind a unix socket.
func (t Trusted) Client(peer net.Addr, fields func(name string) []string) netip.Addr {
	client := addressOf(peer)
	if !t.Has(peer) {
		return client
	}
	entries := fields("X-Forwarded-For")
	if len(entries) > 0 {
		entries = strings.Split(strings.Join(entries, ","), ",")
	} else {
		entries = forwardedFor(strings.Join(fields("Forwarded"), ","))
	}
	for _, entry := range slices.Backward(entries) {
		a, ok := forwarded(entry)
		if !ok {
			return client
		}
		if client = a; !t.has(a) {
			return client
		}
	}
	return client
}

// forwardedFor are the nodes of a Forwarded field, one for each proxy; "" of one that
// names none (RFC 7239, section 4).
func forwardedFor(field string) (nodes []string) {
	node, begin, quoted := "", 0, false
	pair := func(text string) {
		name, value, _ := strings.Cut(strings.Trim(text, " \t"), "=")
		if strings.EqualFold(name, "for") {
			node = strings.Trim(value, `"`) // none has a quoted '"'
		}
	}
	for i := range len(field) {
		switch c := field[i]; {
		case c == '\\' && quoted:
			return nil // so is no address escaped, and where the string ends is a proxy's guess
		case c == '"':
			quoted = !quoted
		case quoted, c != ',' && c != ';':
		default:
			pair(field[begin:i])
			if begin = i + 1; c == ',' {
				nodes, node = append(nodes, node), ""
			}
		}
	}
	if field == "" || quoted {
		return nil
	}
	pair(field[begin:])
	return append(nodes, node)
}

// forwarded reads an entry of X-Forwarded-For, or a node of Forwarded: an address; there
// may be its port behind it, and brackets around one of IPv6.
func forwarded(entry string) (netip.Addr, bool) {
	entry = strings.Trim(entry, " \t")
	if a, err := netip.ParseAddr(entry); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if with, err := netip.ParseAddrPort(entry); err == nil {
		return with.Addr().Unmap().WithZone(""), true
	}
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if a, err := netip.ParseAddr(inner); err == nil {
				return a.Unmap().WithZone(""), true
			}
		}
	}
	return netip.Addr{}, false
}
