package config

import (
	"strings"
	"testing"
	"testing/fstest"
)

func files(m map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range m {
		fsys[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return fsys
}

func TestAutoWorkers(t *testing.T) {
	for _, test := range []struct {
		name     string
		affinity int
		files    map[string]string
		want     int
		why      string
	}{
		{"no cgroup", 4, nil, 4, "affinity to 4 CPUs"},
		{"v2 without quota", 4, map[string]string{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "max 100000"}, 4, "affinity"},
		{"v2 quota rounds up", 8, map[string]string{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "150000 100000"}, 2, "quota of 1.5 in /sys/fs/cgroup/app/cpu.max"},
		{"v2 quota above the mask", 2, map[string]string{"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "900000 100000"}, 2, "affinity"},
		{"v2 quota of a parent", 8, map[string]string{
			"proc/self/cgroup": "0::/pod/app", "sys/fs/cgroup/pod/cpu.max": "300000 100000", "sys/fs/cgroup/pod/app/cpu.max": "max 100000",
		}, 3, "/sys/fs/cgroup/pod/cpu.max"},
		{"container: the path is not visible", 8, map[string]string{"proc/self/cgroup": "0::/docker/abc", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1, "quota of 0.5"},
		{"v1 quota", 8, map[string]string{
			"proc/self/cgroup":                        "4:cpu,cpuacct:/app\n3:memory:/app",
			"sys/fs/cgroup/cpu/app/cpu.cfs_quota_us":  "250000",
			"sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000",
		}, 3, "quota of 2.5"},
		{"v1 without quota", 8, map[string]string{
			"proc/self/cgroup":                    "4:cpu,cpuacct:/",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "-1",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
		}, 8, "affinity"},
		{"nonsense", 8, map[string]string{"proc/self/cgroup": "::::\n0::/a\nx", "sys/fs/cgroup/a/cpu.max": "NaN 0"}, 8, "affinity"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, why := cpus(test.affinity, files(test.files))
			if n != test.want || !strings.Contains(why, test.why) {
				t.Errorf("cpus = %d, %q; want %d and a reason with %q", n, why, test.want, test.why)
			}
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"none", nil, 0},
		{"v2", map[string]string{"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "1073741824"}, 1 << 30},
		{"v2 max", map[string]string{"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max"}, 0},
		{"v1 unlimited", map[string]string{"proc/self/cgroup": "3:memory:/a", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712"}, 0},
		{"v1, smaller above", map[string]string{"proc/self/cgroup": "3:memory:/p/a", "sys/fs/cgroup/memory/p/a/memory.limit_in_bytes": "4096000", "sys/fs/cgroup/memory/p/memory.limit_in_bytes": "1024000"}, 1024000},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := memoryLimit(files(test.files)); got != test.want {
				t.Errorf("memoryLimit = %d, want %d", got, test.want)
			}
		})
	}
}
