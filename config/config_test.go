package config

import (
	"strings"
	"testing"
	"time"
)

func TestCheckNamesTheFieldAndTheCure(t *testing.T) {
	good := func(address string) Config { return Config{Listen: []Listen{{Address: address}}} }
	for _, test := range []struct {
		config Config
		want   []string // in the error; none: it is good
	}{
		{good(":3000"), nil},
		{good("127.0.0.1:0"), nil},
		{good("[::1]:80"), nil},
		{good("localhost:8080"), nil},
		{good(""), []string{"empty", ":3000"}},
		{good("3000"), []string{`"3000"`, "missing port", ":3000"}},
		{good("::1:3000"), []string{"too many colons", "[::1]:3000"}},
		{good(":http"), []string{`port "http"`, "0 to 65535"}},
		{good(":70000"), []string{`port "70000"`}},
		{good("http://x:80"), []string{"path or URL"}},
		{good("a b:80"), []string{"white space"}},
		{Config{Listen: []Listen{{Address: ":1"}, {Address: ":1"}}}, []string{`":1"`, "twice"}},
		{Config{Listen: []Listen{{Address: ":1", Name: "a"}, {Address: ":1", Name: "b"}}}, nil},
		{Config{Workers: -1}, []string{"workers", "-1", "auto"}},
		{Config{Workers: 2000}, []string{"workers", "1024"}},
		{Config{Procs: -1}, []string{"procs"}},
		{Config{Name: "my app"}, []string{`"my app"`, "letters"}},
		{Config{Name: "../x"}, []string{"name"}},
		{Config{Name: strings.Repeat("a", 65)}, []string{"at most 64"}},
		{Config{Name: "api-2.test_x"}, nil},
		{Config{LogFormat: "xml"}, []string{"xml", "text or json"}},
		{Config{Drain: -time.Second}, []string{"drain", "-1s"}},
	} {
		err := test.config.Check()
		if len(test.want) == 0 {
			if err != nil {
				t.Errorf("%+v: %v", test.config, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%+v: no error, want one with %q", test.config, test.want)
			continue
		}
		for _, w := range test.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
}

func FuzzCheckAddress(f *testing.F) {
	for _, s := range []string{":3000", "[::1]:1", "a:b:c", "[", "%:0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if err := checkAddress(address); err != nil && !strings.Contains(err.Error(), "want host:port") {
			t.Errorf("error without a cure: %v", err)
		}
	})
}

func TestDefaultsKeepWhatIsSet(t *testing.T) {
	c := Config{Drain: time.Minute, HTTP: HTTP{IdleTimeout: -5}, Listen: []Listen{{Address: ":1"}}}.WithDefaults()
	if c.Drain != time.Minute || c.HTTP.IdleTimeout != -1 || c.HTTP.HeaderTimeout != 10*time.Second || c.Listen[0].Name != ":1" {
		t.Errorf("%+v", c)
	}
}
