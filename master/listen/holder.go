package listen

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Holder is a process that holds a listening socket.
type Holder struct {
	PID     int
	Command string // its name and arguments, at most 80 bytes
}

func (h *Holder) String() string { return fmt.Sprintf("process %d (%s)", h.PID, h.Command) }

// findHolder looks for the process that listens on the address: through
// /proc/net and the descriptors of every process that this user may see
// (proc(5)). Of several, such as a master and its workers, it takes one whose
// parent is none of them. Nil when none is found.
func findHolder(address string) *Holder {
	sockets := map[string]bool{}
	if name, is := strings.CutPrefix(address, "unix:"); is {
		for _, inode := range unixListeners(name) {
			sockets["socket:["+inode+"]"] = true
		}
	} else if _, text, err := net.SplitHostPort(address); err == nil {
		port, err := strconv.Atoi(text)
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			if err != nil {
				break
			}
			for _, inode := range listeners(table, port) {
				sockets["socket:["+inode+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return nil
	}
	holders := map[int]bool{}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && sockets[target] {
			if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
				holders[pid] = true
			}
		}
	}
	first := 0
	for pid := range holders {
		if !holders[parent(pid)] && (first == 0 || pid < first) {
			first = pid
		}
	}
	if first == 0 {
		return nil
	}
	return &Holder{PID: first, Command: command(first)}
}

// listeners are the inodes of the sockets in a table of /proc/net that listen
// on port.
func listeners(table string, port int) []string {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	var inodes []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		field := strings.Fields(lines.Text())
		const listening = "0A" // TCP_LISTEN of include/net/tcp_states.h
		if len(field) < 10 || field[3] != listening {
			continue
		}
		_, hex, _ := strings.Cut(field[1], ":")
		if p, err := strconv.ParseInt(hex, 16, 32); err == nil && int(p) == port {
			inodes = append(inodes, field[9])
		}
	}
	return inodes
}

// unixListeners are the inodes of the unix sockets of a name that listen.
func unixListeners(name string) []string {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	var inodes []string
	for line := range strings.Lines(string(data)) {
		// Num RefCount Protocol Flags Type St Inode Path
		field := strings.Fields(line)
		const accepts = "00010000" // __SO_ACCEPTCON of linux/net.h
		if len(field) >= 8 && field[3] == accepts && (field[7] == name || field[7] == name+taking) {
			inodes = append(inodes, field[6])
		}
	}
	return inodes
}

// parent is a process's parent, or 0 where it cannot be read.
func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// pid (comm) state ppid …: comm may hold blanks and parentheses.
	text := string(stat)
	field := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(field) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(field[1])
	return ppid
}

func command(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return strings.TrimSpace(string(comm))
	}
	text := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	if len(text) > 80 {
		text = text[:77] + "..."
	}
	return text
}
