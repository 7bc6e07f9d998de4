// Package proxyproto reads, and writes, what proxies say of their clients at the
// beginning of a connection, by the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// ErrHeader is what the error of a header wraps that is none.
var ErrHeader = errors.New("no header of the PROXY protocol")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHeader, fmt.Sprintf(format, args...))
}

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n" // section 2.2
	version1  = "PROXY "
	maxLine   = 107 // bytes of a header of version 1 (section 2.1)
)

// Read reads one header from r, and no byte behind it. source is the client's
// address; the zero AddrPort where the proxy names none: it speaks for itself (LOCAL),
// or for who has no address of the internet (UNKNOWN, unix sockets).
func Read(r io.Reader) (source netip.AddrPort, err error) {
	// Neither version has a shorter one.
	begin := make([]byte, len(signature), maxLine)
	if _, err := io.ReadFull(r, begin); err != nil {
		return source, cut(err)
	}
	switch {
	case string(begin) == signature:
		return binary2(r)
	case strings.HasPrefix(string(begin), version1):
		return line(r, begin)
	}
	return source, wrong("it begins with %.12q", begin)
}

// cut is the error of a connection that ends within a header.
func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return wrong("the connection ended within it")
	}
	return err
}

// line reads the rest of version 1 (section 2.1), byte by byte: what follows is the
// client's.
func line(r io.Reader, text []byte) (source netip.AddrPort, err error) {
	for one := make([]byte, 1); !strings.HasSuffix(string(text), "\r\n"); text = append(text, one[0]) {
		if len(text) == maxLine {
			return source, wrong("its line has no end within %d bytes", maxLine)
		}
		if _, err := io.ReadFull(r, one); err != nil {
			return source, cut(err)
		}
	}
	// Blanks are single, and nothing else is one.
	field := strings.Split(strings.TrimSuffix(string(text), "\r\n"), " ")
	if field[1] == "UNKNOWN" {
		return source, nil // whatever follows is to be ignored
	}
	if len(field) != 6 || field[1] != "TCP4" && field[1] != "TCP6" {
		return source, wrong("%q", text)
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		address, err := netip.ParseAddr(field[2+i])
		if err != nil || address.Is4() != (field[1] == "TCP4") || address.Zone() != "" {
			return source, wrong("%q is no address of %s", field[2+i], field[1])
		}
		port, err := strconv.ParseUint(field[4+i], 10, 16)
		if err != nil || strconv.FormatUint(port, 10) != field[4+i] {
			return source, wrong("%q is no port", field[4+i])
		}
		ends[i] = netip.AddrPortFrom(address.Unmap(), uint16(port))
	}
	return ends[0], nil
}

// What version 2 has behind its signature (section 2.2).
const (
	local    = 0x20 // version and command
	proxied  = 0x21
	unspec   = 0x00 // family and transport
	tcp4     = 0x11
	tcp6     = 0x21
	unixConn = 0x31
)

// addressBytes are the bytes of both addresses and ports of a family.
var addressBytes = map[byte]int{unspec: 0, tcp4: 12, tcp6: 36, unixConn: 216}

// Append appends a header of version 1 or 2 to b. It names both ends of the client's
// connection, whose families may differ; where source is not valid it names nobody: the
// proxy speaks for itself, or for who has no address.
func Append(b []byte, version int, source, destination netip.AddrPort) []byte {
	from, to := source.Addr().Unmap().WithZone(""), destination.Addr().Unmap().WithZone("")
	if source.IsValid() && !destination.IsValid() {
		to = netip.IPv4Unspecified()
	}
	old := from.Is4() && to.Is4()
	switch {
	case version == 1 && !source.IsValid():
		return append(b, version1+"UNKNOWN\r\n"...)
	case version == 1 && old:
		return fmt.Appendf(b, version1+"TCP4 %s %s %d %d\r\n", from, to, source.Port(), destination.Port())
	case version == 1:
		return fmt.Appendf(b, version1+"TCP6 %s %s %d %d\r\n", netip.AddrFrom16(from.As16()), netip.AddrFrom16(to.As16()), source.Port(), destination.Port())
	}
	b = append(b, signature...)
	switch {
	case !source.IsValid():
		return append(b, local, unspec, 0, 0)
	case old:
		b = append(b, proxied, tcp4, 0, byte(addressBytes[tcp4]))
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	default:
		b = append(b, proxied, tcp6, 0, byte(addressBytes[tcp6]))
		both := [2][16]byte{from.As16(), to.As16()}
		b = append(append(b, both[0][:]...), both[1][:]...)
	}
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}

// binary2 reads the rest of version 2.
func binary2(r io.Reader) (source netip.AddrPort, err error) {
	var fixed [4]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return source, cut(err)
	}
	command, family, length := fixed[0], fixed[1], int(binary.BigEndian.Uint16(fixed[2:]))
	if command != local && command != proxied {
		return source, wrong("version and command %#02x", command)
	}
	need, known := addressBytes[family]
	if command == local {
		need = 0 // whatever is there is to be skipped
	} else if !known {
		return source, wrong("family and transport %#02x: want TCP", family)
	}
	if length < need {
		return source, wrong("%d bytes of addresses, want %d", length, need)
	}
	var both [36]byte
	if command == proxied && (family == tcp4 || family == tcp6) {
		if _, err := io.ReadFull(r, both[:need]); err != nil {
			return source, cut(err)
		}
		length -= need
		if family == tcp4 {
			source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(both[:])), binary.BigEndian.Uint16(both[8:]))
		} else {
			source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(both[:])).Unmap(), binary.BigEndian.Uint16(both[32:]))
		}
	}
	if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil { // TLVs
		return netip.AddrPort{}, cut(err)
	}
	return source, nil
}
