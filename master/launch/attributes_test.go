package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"drover/config"
)

// attributed launches the test binary with what a configuration asks for, and
// returns what /proc says of it.
func attributed(t *testing.T, c config.Config) string {
	t.Helper()
	a, err := AttributesOf(c)
	if err != nil {
		t.Fatal(err)
	}
	p := program(t, self(t), "attributes")
	p.SetAttributes(a)
	p.Dir = "/"
	process, out := launch(t, p)
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := process.Wait(); err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	return string(text)
}

func TestAttributes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct {
		name   string
		config config.Config
		want   []string // lines, blanks being any blanks
	}{
		{"nothing", config.Config{}, []string{"Uid: 0 0 0 0", "NoNewPrivs: 0", "HOME=" + os.Getenv("HOME")}},
		{"user", config.Config{User: "nobody"}, []string{"Uid: 65534 65534 65534 65534", "Gid: 65534 65534 65534 65534", "Groups: 65534", "HOME=/nonexistent", "opened"}},
		{"a number and a group", config.Config{User: "12345", Group: "daemon"}, []string{"Uid: 12345 12345 12345 12345", "Gid: 1 1 1 1", "Groups:", "HOME=" + os.Getenv("HOME")}},
		{"groups", config.Config{User: "nobody", Groups: []string{"daemon", "7"}}, []string{"Gid: 65534 65534 65534 65534", "Groups: 1 7"}},
		{"no groups", config.Config{User: "nobody", Groups: []string{}}, []string{"Groups:"}},
		{"a group alone", config.Config{Group: "nogroup"}, []string{"Uid: 0 0 0 0", "Gid: 65534 65534 65534 65534"}},
		{"limits", config.Config{Rlimits: map[string]int64{"nofile": 77, "core": config.Unlimited}}, []string{"Max open files 77 77 files", "Max core file size unlimited unlimited bytes"}},
		{"all", config.Config{User: "nobody", NoNewPrivs: true, OOMScoreAdj: 321, Rlimits: map[string]int64{"nofile": 99, "core": 0}},
			[]string{"Uid: 65534 65534 65534 65534", "NoNewPrivs: 1", "321", "Max open files 99 99 files", "Max core file size 0 0 bytes", "opened"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := attributed(t, c.config)
			for _, want := range c.want {
				pattern := `(?m)^` + strings.ReplaceAll(regexp.QuoteMeta(want), " ", `\s+`) + `[ \t]*$`
				if !regexp.MustCompile(pattern).MatchString(got) {
					t.Errorf("no line %q in\n%s", want, got)
				}
			}
		})
	}
}

func TestMemoryIsShared(t *testing.T) {
	for _, c := range []struct {
		limit   int64
		workers int
		env     []string
		want    string // GOMEMLIMIT in the end; empty: none
	}{
		{1 << 30, 4, nil, "GOMEMLIMIT=241591909"}, // 0.9 GiB for four
		{1 << 30, 4, []string{"GOMEMLIMIT=1GiB"}, "GOMEMLIMIT=1GiB"},
		{0, 4, nil, ""},
	} {
		p := &Program{Env: c.env}
		p.ShareMemory(c.limit, c.workers)
		if got := strings.Join(p.Env, " "); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestAttributesErrorsSayTheCure(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct {
		config config.Config
		want   string
	}{
		{config.Config{User: "nobdy"}, `user: "nobdy": there is no such user: want a name that ` + "`getent passwd` lists, or a number"},
		{config.Config{User: "12345"}, `user: "12345" has no entry in the user database, which would say its group: give group too`},
		{config.Config{User: "nobody", Group: "nogrp"}, `group: "nogrp": there is no such group`},
		{config.Config{Groups: []string{"-1"}}, `groups: "-1": there is no such group`},
	} {
		var wrong *config.Error
		if _, err := AttributesOf(c.config); !errors.As(err, &wrong) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.want)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_ROLE=unprivileged")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	want := `user: workers cannot become user 0 of group 0, since drover runs as user 65534: start drover as root, or leave user, group and groups out
rlimits: nofile is above 50, the hard limit of drover itself, and only root may raise that: start drover as root or with a higher limit, or ask for less
oom_score_adj: -1 is below drover's own, 0, and only root may lower it: start drover as root, or ask for more
<nil>
<nil>
`
	if err != nil || string(out) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}

// unprivileged asks for what only root may have, and for what anybody may.
func unprivileged() {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 50, Max: 50}); err != nil {
		panic(err)
	}
	for _, c := range []config.Config{
		{User: "root"},
		{Rlimits: map[string]int64{"nofile": 51}},
		{OOMScoreAdj: -1},
		{User: "nobody"},
		{Rlimits: map[string]int64{"nofile": 50}, OOMScoreAdj: 5, NoNewPrivs: true},
	} {
		_, err := AttributesOf(c)
		fmt.Println(err)
	}
}
