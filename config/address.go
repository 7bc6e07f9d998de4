package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// AddressError is a listen address that cannot be one.
type AddressError struct{ Address, Why string }

func (e *AddressError) Error() string {
	return fmt.Sprintf("listen address %q: %s: want host:port, such as :3000, 127.0.0.1:3000 or [::1]:3000, or unix:/PATH", e.Address, e.Why)
}

// maxUnixPath is how long the path of a unix socket may be: 108 bytes with its
// final zero (unix(7)), less the four that a takeover puts behind it.
const maxUnixPath = 103

// checkAddress says what is wrong with a host:port or unix:/path, and what would
// be right. It asks no resolver and looks at no file.
func checkAddress(address string) error {
	bad := func(why string) error { return &AddressError{address, why} }
	if address == "" {
		return bad("it is empty")
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		switch {
		case strings.ContainsRune(path, 0):
			return bad("it holds a zero byte")
		case len(path) > maxUnixPath:
			return bad(fmt.Sprintf("its path has %d bytes, and at most %d fit", len(path), maxUnixPath))
		case strings.HasPrefix(path, "@") && len(path) > 1:
			return nil
		case !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
			return bad("want the absolute path of a socket, such as unix:/run/app.sock, or unix:@name")
		}
		return nil
	}
	if strings.Contains(address, "/") {
		return bad("it looks like a path or URL")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		if addrErr, ok := err.(*net.AddrError); ok {
			return bad(addrErr.Err)
		}
		return bad(err.Error())
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return bad(fmt.Sprintf("port %q is not a number from 0 to 65535", port))
	}
	if strings.ContainsAny(host, " \t\n\x00") {
		return bad("the host holds white space")
	}
	return nil
}

// checkName holds a name to what can stand in a file's name on every system.
func checkName(name string) error {
	if len(name) > 64 {
		return wrong("name", "%q is %d characters long: want at most 64", name, len(name))
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_'
		if !letter && (i == 0 || r != '-' && r != '.') {
			return wrong("name", "%q has %q at character %d: want letters, digits, '_', and after the first '-' or '.'", name, r, i+1)
		}
	}
	return nil
}

// CleanName makes an app's default name of any text: what checkName refuses
// becomes '-'.
func CleanName(text string) string {
	name := []byte(text)
	for i := range name {
		if checkName("a"+string(name[i])) != nil {
			name[i] = '-'
		}
	}
	trimmed := strings.TrimLeft(string(name), "-.")
	if len(trimmed) > 64 {
		trimmed = trimmed[:64]
	}
	if trimmed == "" {
		return "app"
	}
	return trimmed
}
