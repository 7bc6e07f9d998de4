// Package ipc is what a master and its workers say to each other: the words,
// how they are framed, how descriptors travel with them, and the names and
// numbers of the environment. It decides nothing and starts no goroutine.
//
// A life's channel is one SOCK_SEQPACKET socket pair. Each packet, of at most
// MaxPacket bytes, is one JSON object, or mail: messages that users' code sends.
// Descriptors ride on the packet that names them. A worker is known by the channel that it speaks on, never by what it
// says of itself.
package ipc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"drover/internal/sys"
)

const (
	// Version is the version of this vocabulary. The hello carries it; a master
	// refuses a worker of another one.
	Version = 3

	// MaxPacket bounds a packet, in bytes.
	MaxPacket = 64 << 10

	// MaxDescriptors bounds the descriptors of one packet.
	MaxDescriptors = sys.MaxDescriptors

	// FirstFD is the number of a worker's first listener (sd_listen_fds(3),
	// SD_LISTEN_FDS_START).
	FirstFD = 3
)

// The environment that a worker is started with. Join removes it, so that no
// grandchild takes itself for a worker.
const (
	EnvChannel     = "DROVER_CHANNEL"     // number of the channel's descriptor
	EnvListenPID   = "LISTEN_PID"         // the worker's own pid (sd_listen_fds(3))
	EnvListenFDs   = "LISTEN_FDS"         // how many listeners there are, from FirstFD
	EnvListenNames = "LISTEN_FDNAMES"     // their names, joined by ':', each query-escaped
	EnvRuntimeDir  = "DROVER_RUNTIME_DIR" // where control sockets are; not removed
)

// A Go worker is started with SchedTrace at the end of its GODEBUG, and takes it
// away again for its children. It keeps the runtime's monitor thread from deep
// sleep (runtime/proc.go, sysmon: "if debug.schedtrace <= 0 && …"), out of which
// each blocking call of a worker with one P would wake it. The number is the
// largest interval, in milliseconds, at which the runtime then prints the state
// of its scheduler: 24.8 days.
const (
	EnvGodebug = "GODEBUG"
	SchedTrace = "schedtrace=2147483647"
)

// Kind says what a message is about.
type Kind string

const (
	// Worker to master.

	Hello   Kind = "hello"   // first packet: Version; Listen when the program names its own addresses
	Ready   Kind = "ready"   // it serves
	Leaving Kind = "leaving" // it drains though nobody here asked; Reason says why
	Closed  Kind = "closed"  // its listeners are closed: it accepts nothing more

	// Master to worker.

	Welcome  Kind = "welcome"  // answers the hello: Life, Listen; the scoreboard's descriptor, with Secrets theirs, then those of Sockets
	Renew    Kind = "renew"    // Secrets have changed: their descriptor
	Sockets  Kind = "sockets"  // more Sockets and their descriptors, none before them
	Stopping Kind = "stopping" // the app will stop in a while: say so to load balancers, serve on
	Foster   Kind = "foster"   // On: accept on Slot's sockets too; not On: no more
	Drain    Kind = "drain"    // finish what you have and exit; Final when the whole app stops

	// Both ways, and never JSON.

	Mail   Kind = "mail"   // Mail: frames of users' messages
	Credit Kind = "credit" // Credit bytes of mail were read
)

// Message is one packet. Which fields a kind uses is said beside the kind; the
// others are zero.
type Message struct {
	Kind    Kind     `json:"kind"`
	Version int      `json:"version,omitempty"`
	Listen  []Listen `json:"listen,omitempty"`
	Life    *Life    `json:"life,omitempty"`
	Sockets []Socket `json:"sockets,omitempty"`
	Slot    int      `json:"slot,omitempty"`
	On      bool     `json:"on,omitempty"`
	Final   bool     `json:"final,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Secrets bool     `json:"secrets,omitempty"` // their descriptor comes along: see Unseal
	Mail    []byte   `json:"-"`                 // read it with NextFrame
	Credit  int      `json:"-"`
}

// Listen is an address and the name that the program finds it by.
type Listen struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Of a hello: what the program asks of an address that it names.
	Steering string `json:"steering,omitempty"`
	Mode     uint32 `json:"mode,omitempty"`
	TLS      string `json:"tls,omitempty"` // a config.TLS in JSON, whose files the master reads
	// Of a welcome.
	Shared bool `json:"shared,omitempty"` // all slots accept on one socket
	Kept   bool `json:"kept,omitempty"`   // its queue outlives the app: a service manager's
	// Proxies have their connections begin with a header of the PROXY protocol: as
	// config.Trust reads them, with ',' between. Empty is nobody.
	Proxies string `json:"proxies,omitempty"`
}

// Life tells a worker who it is, and the supervision that it lives under.
type Life struct {
	App           string        `json:"app"`
	Slot          int           `json:"slot"`
	ID            uint64        `json:"id"`
	Generation    int           `json:"generation"`
	Procs         int           `json:"procs"`          // GOMAXPROCS
	Drain         time.Duration `json:"drain"`          // from the word to the kill
	LameDuck      time.Duration `json:"lame_duck"`      // its first part
	OrphanTimeout time.Duration `json:"orphan_timeout"` // how long to serve on without a master
}

// Socket names one descriptor of the message: a slot's socket of an address.
type Socket struct {
	Listen int `json:"listen"` // index in Listen of the welcome
	Slot   int `json:"slot"`
}

// check refuses what no peer of this version can mean.
func (m Message) check() error {
	switch m.Kind {
	case Hello:
		for _, l := range m.Listen {
			if l.Name == "" || l.Address == "" {
				return fmt.Errorf("hello names a listener without name or address: %+v", l)
			}
		}
	case Welcome:
		switch {
		case m.Life == nil:
			return fmt.Errorf("welcome without a life")
		case m.Life.Slot < 0, m.Life.ID == 0:
			return fmt.Errorf("welcome to slot %d as life %d", m.Life.Slot, m.Life.ID)
		}
		for _, s := range m.Sockets {
			if s.Listen >= len(m.Listen) {
				return fmt.Errorf("welcome brings a socket of address %d, but has %d addresses", s.Listen, len(m.Listen))
			}
		}
	case Foster:
		if m.Slot < 0 {
			return fmt.Errorf("foster slot %d", m.Slot)
		}
	case Sockets, Renew, Ready, Leaving, Closed, Stopping, Drain:
	default:
		return fmt.Errorf("unknown kind %q", m.Kind)
	}
	for _, s := range m.Sockets {
		if s.Listen < 0 || s.Slot < 0 {
			return fmt.Errorf("%s brings a socket of address %d for slot %d", m.Kind, s.Listen, s.Slot)
		}
	}
	return nil
}

// Encode gives the packet of a message that is JSON. It fails only when that is larger than
// MaxPacket.
func Encode(m Message) ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	if len(data) > MaxPacket {
		return nil, fmt.Errorf("encode %s: %d bytes: at most %d fit a packet", m.Kind, len(data), MaxPacket)
	}
	return data, nil
}

// Decode reads a packet. Its error says what is wrong with it, quoting at most
// 80 bytes; a peer that sends such a packet is not to be trusted further. A
// message's Mail lies in the packet's memory.
func Decode(packet []byte) (Message, error) {
	if len(packet) > 0 && (packet[0] == mailMark || packet[0] == creditMark) {
		return decodeMail(packet)
	}
	var m Message
	dec := json.NewDecoder(bytes.NewReader(packet))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Message{}, fmt.Errorf("decode packet %.80q: %w", packet, err)
	}
	if dec.More() {
		return Message{}, fmt.Errorf("decode packet %.80q: more than one object", packet)
	}
	if err := m.check(); err != nil {
		return Message{}, fmt.Errorf("decode packet: %w", err)
	}
	return m, nil
}
