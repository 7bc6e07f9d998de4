package config

import (
	"cmp"
	"net"
	"net/netip"
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
	used := f.Serve != nil && len(f.Serve.Proxy) > 0
	for _, l := range f.Listen {
		used = used || l.ProxyProtocol
	}
	if len(f.TrustedProxies) > 0 && !used {
		return wrong("trusted proxies", "%s: nothing here goes by them: want proxy of serve, or proxy_protocol of an address (--proxy, --proxy-protocol); a program reads X-Forwarded-For itself", strings.Join(f.TrustedProxies, ", "))
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

// Client is who has sent a request that came from peer, with these fields
// X-Forwarded-For, in their order: of a trusted proxy the rightmost address that is
// no trusted proxy's; of anybody else peer's own, whatever the fields say. Of
// entries that are no address it believes none, nor what is left of them. It is the
// zero Addr where nobody knows: behind a unix socket.
func (t Trusted) Client(peer net.Addr, forwardedFor ...string) netip.Addr {
	client := addressOf(peer)
	if !t.Has(peer) {
		return client
	}
	for i := len(forwardedFor) - 1; i >= 0; i-- {
		for rest := forwardedFor[i]; ; {
			at := strings.LastIndexByte(rest, ',')
			a, ok := forwarded(rest[at+1:])
			if !ok {
				return client
			}
			if client = a; !t.has(a) {
				return client
			}
			if at < 0 {
				break
			}
			rest = rest[:at]
		}
	}
	return client
}

// forwarded reads an entry of X-Forwarded-For: an address; some proxies put its port
// behind it, and brackets around one of IPv6.
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
