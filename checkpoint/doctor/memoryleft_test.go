package doctor

import (
	"math"
	"testing"
	"testing/fstest"
)

// TestMemoryLeft wants the least of what the machine and the control groups have left, of either version.
func TestMemoryLeft(t *testing.T) {
	const machine = "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"nothing says":   {nil, math.MaxUint64},
		"no group":       {map[string]string{"proc/meminfo": machine}, 8000 << 10},
		"damaged groups": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "x\n\n0::\n"}, 8000 << 10},
		"version 2, a container's group at the mount": {map[string]string{"proc/meminfo": machine,
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5000\n", "sys/fs/cgroup/memory.current": "3000\n",
			"sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500\nactive_file 9\n"}, 2500},
		"version 2, no limit": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/a\n",
			"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "3000\n"}, 8000 << 10},
		"version 2, a limit above": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max": "4000\n", "sys/fs/cgroup/a/memory.current": "3500\n",
			"sys/fs/cgroup/a/b/memory.max": "4000\n", "sys/fs/cgroup/a/b/memory.current": "1000\n"}, 500},
		"version 2, more used than allowed": {map[string]string{"proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "4000\n", "sys/fs/cgroup/memory.current": "4100\n"}, 0},
		"version 1": {map[string]string{"proc/meminfo": machine,
			"proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n",
			"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "6000\n",
			"sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "5000\n",
			"sys/fs/cgroup/memory/docker/1/memory.stat":           "inactive_file 7\ntotal_inactive_file 1000\n"}, 2000},
		"version 1, the host's path seen from within": {map[string]string{"proc/self/cgroup": "4:memory:/docker/1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n"}, 1000},
	} {
		root := fstest.MapFS{}
		for path, text := range c.files {
			root[path] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := memoryLeftOf(root); got != c.want {
			t.Errorf("%s: %d left, want %d", name, got, c.want)
		}
	}
}
