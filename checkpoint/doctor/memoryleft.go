package doctor

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// MemoryLeft is how many bytes of memory this process could still have: what the machine could still give, or less if
// a control group, a container's say, has less left. As many as one likes where nobody says.
func MemoryLeft() uint64 { return memoryLeftOf(os.DirFS("/")) }

// memoryLeftOf is MemoryLeft by the files of a system: /proc/meminfo, /proc/self/cgroup and what lies under
// /sys/fs/cgroup (Linux, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
func memoryLeftOf(root fs.FS) uint64 {
	left := uint64(math.MaxUint64)
	if b, err := fs.ReadFile(root, "proc/meminfo"); err == nil {
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			var kib uint64
			if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
				if n, _ := fmt.Sscanf(rest, "%d kB", &kib); n == 1 {
					left = kib << 10
				}
			}
		}
	}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return left
	}
	for line := range strings.Lines(string(groups)) { // hierarchy:controllers:path
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			left = min(left, groupLeft(root, "sys/fs/cgroup", parts[2], "memory.max", "memory.current", "inactive_file"))
		case strings.Contains(","+parts[1]+",", ",memory,"):
			left = min(left, groupLeft(root, "sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes",
				"memory.usage_in_bytes", "total_inactive_file"))
		}
	}
	return left
}

// groupLeft is the least that a control group and those above it have left: each has a limit, and a file cache within
// what it uses that the kernel gives up first. A path that is not there is one of the host's, seen from a container
// that has its own group at the mount: going up gets there.
func groupLeft(root fs.FS, mount, group, limitFile, usedFile, cacheKey string) uint64 {
	left := uint64(math.MaxUint64)
	for at := path.Join("/", group); ; at = path.Dir(at) {
		dir := path.Join(mount, at)
		limit, limited := number(root, path.Join(dir, limitFile))
		used, ok := number(root, path.Join(dir, usedFile))
		if limited && ok {
			cache := statistic(root, path.Join(dir, "memory.stat"), cacheKey)
			used -= min(used, cache)
			left = min(left, limit-min(limit, used))
		}
		if at == "/" {
			return left
		}
	}
}

// number reads a file of one number; "max", or none, is none.
func number(root fs.FS, name string) (n uint64, ok bool) {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// statistic reads a number by its name from a file of many; 0: it is not there.
func statistic(root fs.FS, name, key string) uint64 {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, _ := strconv.ParseUint(v, 10, 64)
			return n
		}
	}
	return 0
}
