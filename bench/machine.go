package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// machine is where results are from.
type machine struct {
	CPU         string            `json:"cpu"`
	Cores       int               `json:"cores"`
	Kernel      string            `json:"kernel"`
	Mitigations []string          `json:"mitigations"` // of the CPU's weaknesses that it has, as the kernel says
	Congestion  string            `json:"congestion_control"`
	Go          string            `json:"go"`
	Wrk         string            `json:"wrk"`
	Versions    map[string]string `json:"versions"` // of servers
	Missing     map[string]string `json:"missing"`  // servers that could not be had, and why
	Date        string            `json:"date"`
}

func cpus() int { return runtime.NumCPU() }

func thisMachine(servers []server) machine {
	m := machine{
		CPU: "unknown CPU", Cores: cpus(), Kernel: "unknown", Congestion: "unknown", Go: runtime.Version(), Wrk: "unknown",
		Versions: map[string]string{}, Missing: map[string]string{}, Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"),
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(info), "model name"); ok { // arm64 has none
			line, _, _ := strings.Cut(after, "\n")
			m.CPU = strings.Trim(line, "\t :")
		}
	}
	for path, to := range map[string]*string{
		"/proc/sys/kernel/osrelease":                &m.Kernel,
		"/proc/sys/net/ipv4/tcp_congestion_control": &m.Congestion,
	} {
		if text, err := os.ReadFile(path); err == nil {
			*to = strings.TrimSpace(string(text))
		}
	}
	paths, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*") // the pattern is good
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil && !strings.HasPrefix(string(text), "Not affected") {
			m.Mitigations = append(m.Mitigations, filepath.Base(path)+": "+strings.TrimPrefix(strings.TrimSpace(string(text)), "Mitigation: "))
		}
	}
	out, _ := exec.Command("wrk", "-v").Output() // it prints the version, and exits with 1
	if version, _, ok := strings.Cut(string(out), " ["); ok {
		m.Wrk = strings.TrimPrefix(version, "wrk ")
	}
	for _, s := range servers {
		if s.missing != nil {
			m.Missing[s.name] = s.missing.Error()
		} else if s.version != "" {
			m.Versions[s.name] = s.version
		}
	}
	return m
}

func (m machine) String() string {
	var versions []string
	for _, v := range m.Versions {
		if !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	text := fmt.Sprintf("%s, %d cores, Linux %s, congestion control %s; %s, wrk %s, %s; %s.",
		m.CPU, m.Cores, m.Kernel, m.Congestion, m.Go, m.Wrk, strings.Join(versions, ", "), m.Date)
	if len(m.Mitigations) > 0 {
		text += " The CPU's weaknesses: " + strings.Join(m.Mitigations, "; ") + "."
	}
	return text
}
