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
		{good("unix:/run/app.sock"), nil},
		{good("unix:@app"), nil},
		{good("unix:app.sock"), []string{"absolute path", "unix:/run/app.sock"}},
		{good("unix:/run/"), []string{"absolute path"}},
		{good("unix:@"), []string{"unix:@name"}},
		{good("unix:/a\x00b"), []string{"zero byte"}},
		{good("unix:/" + strings.Repeat("a", 107)), []string{"108 bytes", "at most 103"}},
		{Config{Listen: []Listen{{Address: ":1", Steering: Sticky}}}, nil},
		{Config{Listen: []Listen{{Address: ":1", Steering: "adaptive"}}}, []string{`"adaptive"`, "spread, sticky, cpu, shared"}},
		{Config{Workers: 330, Listen: []Listen{{Address: ":1", Steering: Sticky}}}, nil},
		{Config{Workers: 331, Listen: []Listen{{Address: ":1", Steering: Sticky}}}, []string{"sticky", "331", "at most 330"}},
		{Config{Listen: []Listen{{Address: "unix:/a", Steering: Shared, Mode: 0o660}}}, nil},
		{Config{Listen: []Listen{{Address: "unix:/a", Steering: CPU}}}, []string{`"cpu"`, "unix:/a", "want shared"}},
		{Config{Listen: []Listen{{Address: "unix:/a", Mode: 0o1777}}}, []string{"01777", "0660"}},
		{Config{Listen: []Listen{{Address: ":1", Mode: 0o660}}}, []string{"mode", "unix socket"}},
		{Config{Workers: -1}, []string{"workers", "-1", "auto"}},
		{Config{Workers: 2000}, []string{"workers", "1024"}},
		{Config{Procs: -1}, []string{"procs"}},
		{Config{Name: "my app"}, []string{`"my app"`, "letters"}},
		{Config{Name: "../x"}, []string{"name"}},
		{Config{Name: strings.Repeat("a", 65)}, []string{"at most 64"}},
		{Config{Name: "api-2.test_x"}, nil},
		{Config{OOMScoreAdj: -1001}, []string{"oom score adj", "-1000 to 1000"}},
		{Config{Rlimits: map[string]int64{"files": 1}}, []string{`"files"`, "nofile"}},
		{Config{Rlimits: map[string]int64{"nofile": -2}}, []string{"nofile is -2", "-1 for none"}},
		{Config{Kind: "go"}, []string{`"go"`, "auto, drover, foreign"}},
		{Config{StopSignal: "SIGTERM"}, []string{`"SIGTERM"`, "TERM"}},
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
