package config

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"drover/internal/sys"
)

// CPUs is how many workers "auto" means on this machine, and why: one for each
// CPU of the affinity mask, but no more than the cgroup's CPU quota, rounded up.
func CPUs() (n int, why string) {
	return cpus(sys.Affinity(), os.DirFS("/"))
}

func cpus(affinity int, root fs.FS) (int, string) {
	quota, file := cpuQuota(root)
	if n := int(math.Ceil(quota)); quota > 0 && n < affinity {
		return max(1, n), fmt.Sprintf("CPU quota of %g in %s", quota, file)
	}
	return max(1, affinity), fmt.Sprintf("affinity to %d CPUs", affinity)
}

// cpuQuota is the smallest CPU quota of this process's cgroup and those above
// it, in CPUs, and the file that sets it; 0 when there is none.
func cpuQuota(root fs.FS) (float64, string) {
	return smallest(root, map[string]func(dir string) (float64, string){
		// v2: "max 100000" or "50000 100000", Documentation/admin-guide/cgroup-v2.rst.
		"": func(dir string) (float64, string) {
			file := path.Join(dir, "cpu.max")
			field := strings.Fields(read(root, file))
			if len(field) != 2 {
				return 0, ""
			}
			return ratio(field[0], field[1]), file
		},
		// v1: -1 is no quota, Documentation/scheduler/sched-bwc.rst.
		"cpu": func(dir string) (float64, string) {
			file := path.Join(dir, "cpu.cfs_quota_us")
			return ratio(read(root, file), read(root, path.Join(dir, "cpu.cfs_period_us"))), file
		},
	})
}

// MemoryLimit is the smallest memory limit of this process's cgroup and those
// above it, in bytes; 0 when there is none.
func MemoryLimit() int64 { return memoryLimit(os.DirFS("/")) }

func memoryLimit(root fs.FS) int64 {
	limit := func(name string) func(string) (float64, string) {
		return func(dir string) (float64, string) {
			file := path.Join(dir, name)
			n, err := strconv.ParseInt(read(root, file), 10, 64)
			// v1 writes "no limit" as the largest page count times the page size.
			if err != nil || n <= 0 || n > 1<<62 {
				return 0, ""
			}
			return float64(n), file
		}
	}
	n, _ := smallest(root, map[string]func(string) (float64, string){
		"":       limit("memory.max"),
		"memory": limit("memory.limit_in_bytes"),
	})
	return int64(n)
}

// smallest asks for a limit in each directory from this process's cgroup up to
// the root of its hierarchy, and returns the smallest that is not 0. ask is by
// v1 controller; "" is the v2 hierarchy (cgroups(7)).
func smallest(root fs.FS, ask map[string]func(dir string) (float64, string)) (limit float64, file string) {
	for _, line := range strings.Split(read(root, "proc/self/cgroup"), "\n") {
		// hierarchy-ID:controller-list:path
		part := strings.SplitN(line, ":", 3)
		if len(part) != 3 {
			continue
		}
		for _, controller := range strings.Split(part[1], ",") {
			get := ask[controller]
			if get == nil {
				continue
			}
			mount := "sys/fs/cgroup"
			if controller != "" {
				mount = path.Join(mount, controller)
			}
			for dir := path.Clean("/" + part[2]); ; dir = path.Dir(dir) {
				if n, name := get(path.Join(mount, dir)); n > 0 && (limit == 0 || n < limit) {
					limit, file = n, "/"+name
				}
				if dir == "/" {
					break
				}
			}
		}
	}
	return limit, file
}

func read(root fs.FS, name string) string {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// ratio is quota/period, or 0 when there is no quota.
func ratio(quota, period string) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	if err != nil || err2 != nil || q <= 0 || p <= 0 || math.IsInf(q, 0) || math.IsNaN(q/p) {
		return 0
	}
	return q / p
}
