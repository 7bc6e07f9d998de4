package config

import (
	"net"
	"net/http"
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
		header := http.Header{"Forwarded": {"for=8.8.4.4"}} // which nobody asks where there is the other
		if c.xff != "" {
			header["X-Forwarded-For"] = strings.Split(c.xff, "|")
		} else {
			header.Del("Forwarded")
		}
		if got := trusted.Client(peer, header.Values); got.String() != c.want {
			t.Errorf("of %s with %q: %v, want %s", c.peer, c.xff, got, c.want)
		}
	}
	unix := PeerOf("@")
	header := http.Header{"X-Forwarded-For": {"203.0.113.7"}}
	if got := trusted.Client(unix, header.Values); got.IsValid() {
		t.Errorf("of a unix socket that is not trusted: %v, want none", got)
	}
	if trusted, err = Trust("unix"); err != nil || trusted.Client(unix, header.Values).String() != "203.0.113.7" {
		t.Errorf("of one that is: %v, %v", trusted.Client(unix, header.Values), err)
	}
}

func TestClientByForwarded(t *testing.T) {
	trusted, err := Trust("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{ // fields, with '|' between them
		`for=203.0.113.7`: "203.0.113.7",
		`For="203.0.113.7:1234";proto=https;host="a,b;for=8.8.8.8"`: "203.0.113.7",
		`for="[2001:db8::7]:1234" , by=10.1.1.2 ; for=10.1.1.1`:     "2001:db8::7",
		`for=8.8.8.8, for=203.0.113.7|proto=http;FOR="10.2.2.2"`:    "203.0.113.7",
		`for=8.8.8.8, for=unknown, for=10.2.2.2`:                    "10.2.2.2",
		`for=8.8.8.8, for=_hidden`:                                  "10.1.1.1",
		`for=8.8.8.8, proto=http`:                                   "10.1.1.1",
		`for=8.8.8.8,`:                                              "10.1.1.1",
		`for="8.8.8.8`:                                              "10.1.1.1",
		`host="\", for=8.8.8.8`:                                     "10.1.1.1",
		``:                                                          "10.1.1.1",
	} {
		header := http.Header{"Forwarded": strings.Split(field, "|")}
		if got := trusted.Client(PeerOf("10.1.1.1:80"), header.Values); got.String() != want {
			t.Errorf("%s: %v, want %s", field, got, want)
		}
	}
}
