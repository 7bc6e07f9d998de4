package config

import (
	"net"
	"strings"
	"testing"
)

func TestClient(t *testing.T) {
	trusted, err := Trust("10.0.0.0/8", "2001:db8::1", "::ffff:192.0.2.9")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer string
		xff  string // fields, with '|' between them
		want string
	}{
		{"203.0.113.1", "", "203.0.113.1"},
		{"203.0.113.1", "8.8.8.8", "203.0.113.1"}, // a stranger's word
		{"10.1.1.1", "", "10.1.1.1"},
		{"10.1.1.1", "203.0.113.7", "203.0.113.7"},
		{"::ffff:10.1.1.1", "203.0.113.7", "203.0.113.7"},
		{"10.1.1.1", "8.8.8.8, 203.0.113.7, 10.2.2.2", "203.0.113.7"},
		{"10.1.1.1", "8.8.8.8|203.0.113.7|10.2.2.2,10.3.3.3", "203.0.113.7"},
		{"10.1.1.1", "10.4.4.4, 10.2.2.2", "10.4.4.4"},
		{"10.1.1.1", "8.8.8.8, unknown, 10.2.2.2", "10.2.2.2"},
		{"10.1.1.1", "8.8.8.8,", "10.1.1.1"},
		{"10.1.1.1", "203.0.113.7:1234", "203.0.113.7"},
		{"10.1.1.1", "[2001:db8::7]:1234", "2001:db8::7"},
		{"10.1.1.1", "[2001:db8::7]", "2001:db8::7"},
		{"10.1.1.1", "2001:db8::7", "2001:db8::7"},
		{"10.1.1.1", "[2001:db8::7", "10.1.1.1"},
		{"2001:db8::1", "203.0.113.7", "203.0.113.7"},
		{"2001:db8::2", "203.0.113.7", "2001:db8::2"},
		{"192.0.2.9", "203.0.113.7", "203.0.113.7"},
	} {
		peer := &net.TCPAddr{IP: net.ParseIP(c.peer), Port: 1}
		if got := trusted.Client(peer, strings.Split(c.xff, "|")...); c.xff == "" && trusted.Client(peer).String() != c.want || c.xff != "" && got.String() != c.want {
			t.Errorf("of %s with %q: %v, want %s", c.peer, c.xff, got, c.want)
		}
	}
	unix := &net.UnixAddr{Name: "@", Net: "unix"}
	if got := trusted.Client(unix, "203.0.113.7"); got.IsValid() {
		t.Errorf("of a unix socket that is not trusted: %v, want none", got)
	}
	if trusted, err = Trust("unix"); err != nil || trusted.Client(unix, "203.0.113.7").String() != "203.0.113.7" {
		t.Errorf("of one that is: %v, %v", trusted.Client(unix, "203.0.113.7"), err)
	}
}
