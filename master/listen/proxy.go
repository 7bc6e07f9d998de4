package listen

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"drover/internal/sys"
)

// sampled bounds the connections that are looked at: the kernel lists them in
// the order of a hash.
const sampled = 5000

// Busiest looks at the established connections to an address's port, and says
// which source, as sticky steering knows it, has the most, how many, and of how
// many. It may take milliseconds.
func Busiest(address string) (source netip.Prefix, connections, of int, err error) {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return source, 0, 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return source, 0, 0, fmt.Errorf("port of %s: %w", address, err)
	}
	peers, err := sys.Peers(uint16(port), sampled)
	if err != nil {
		return source, 0, 0, err
	}
	sources := map[netip.Prefix]int{}
	for _, peer := range peers {
		bits := 64
		if peer.Is4() {
			bits = 32
		}
		from, err := peer.Prefix(bits)
		if err != nil {
			return source, 0, 0, err
		}
		if sources[from]++; sources[from] > connections {
			source, connections = from, sources[from]
		}
	}
	return source, connections, len(peers), nil
}
