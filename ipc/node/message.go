// Package node is Node.js's wire format between a cluster primary and its
// workers, and nothing else: one JSON value a line over a unix stream socket,
// with descriptors riding on the lines that name them. What is said when is
// decided elsewhere.
//
// The format is internal to Node (lib/internal/child_process.js and
// lib/internal/cluster/ of its sources), and has not changed from Node 16 to 26.
package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The environment of a worker. Node removes all three before any of the user's
// code runs.
const (
	EnvChannel = "NODE_CHANNEL_FD" // number of the channel's descriptor
	EnvFormat  = "NODE_CHANNEL_SERIALIZATION_MODE"
	EnvID      = "NODE_UNIQUE_ID" // cluster.worker.id; makes the process a worker

	// Format is what this package speaks, for EnvFormat.
	Format = "json"
)

// Cmd is what an internal message is about: one that Node keeps from the user's
// code.
type Cmd string

const (
	User       Cmd = ""                 // a user's message: any JSON value
	Handle     Cmd = "NODE_HANDLE"      // Msg comes with a descriptor
	HandleAck  Cmd = "NODE_HANDLE_ACK"  // the descriptor arrived
	HandleNack Cmd = "NODE_HANDLE_NACK" // it did not
	Cluster    Cmd = "NODE_CLUSTER"     // Act, or an answer to the message Ack

	NotifyClose Cmd = "NODE_SOCKET_NOTIFY_CLOSE" // a server with sockets of ours closes: say AllClosed
	AllClosed   Cmd = "NODE_SOCKET_ALL_CLOSED"
	GetCount    Cmd = "NODE_SOCKET_GET_COUNT" // how many of its sockets are open here: say Count
	Count       Cmd = "NODE_SOCKET_COUNT"

	// Of drover's own: Node reads over what it does not know.

	Ping Cmd = "NODE_DROVER_PING" // means nothing

	// For a module of drover's in the worker.

	Drain   Cmd = "NODE_DROVER_DRAIN"   // ask clients to close
	Tickets Cmd = "NODE_DROVER_TICKETS" // new keys of session tickets
)

// Act is what a Cluster message wants.
type Act string

const (
	// Worker to primary.

	Online      Act = "online"                // the first word
	QueryServer Act = "queryServer"           // it wants a socket, and waits for the answer
	Listening   Act = "listening"             // a server of it listens
	Close       Act = "close"                 // a server of it, by Key, is closed
	Leaving     Act = "exitedAfterDisconnect" // it leaves by its own wish, and waits for the answer

	// Primary to worker.

	NewConn    Act = "newconn"    // a connection for the server Key, which comes with it
	Disconnect Act = "disconnect" // close the servers, finish, and go
)

// Types of a Handle: what the descriptor becomes in the worker.
const (
	NetNative   = "net.Native"   // a TCP or unix socket
	DgramNative = "dgram.Native" // a UDP socket
)

// Message is one line. The fields that a message does not have are nil or zero.
type Message struct {
	Cmd Cmd `json:"cmd"`

	// Raw is the line itself, without its end: for a user's message, all there is.
	Raw json.RawMessage `json:"-"`

	// Of Handle.
	Type string          `json:"type"`
	Msg  json.RawMessage `json:"msg"`

	// Of Cluster.
	Act      Act    `json:"act"`
	Seq      *int64 `json:"seq"`
	Ack      *int64 `json:"ack"`
	Key      string `json:"key"` // also of NotifyClose and GetCount
	Accepted bool   `json:"accepted"`

	// Of QueryServer and Listening.
	Index       int             `json:"index"`
	Address     *string         `json:"address"`     // nil: every address; absolute path of a unix socket
	Port        *json.Number    `json:"port"`        // -1 with a path
	AddressType AddressType     `json:"addressType"` // 4, 6, -1 (path), "udp4", "udp6"
	FD          *int            `json:"fd"`          // the number of a descriptor of the primary's; -1: none
	Flags       int             `json:"flags"`       // FlagIPv6Only, FlagReuseAddr
	ReadableAll bool            `json:"readableAll"` // of a path: everybody may read it
	WritableAll bool            `json:"writableAll"`
	Data        json.RawMessage `json:"data"` // what the first worker's server brings, and all are to have
}

// Flags of a server (uv.h: UV_TCP_IPV6ONLY, UV_UDP_REUSEADDR).
const (
	FlagIPv6Only  = 1
	FlagReuseAddr = 4
)

// AddressType is 4, 6, -1, "udp4" or "udp6", as text.
type AddressType string

// UnmarshalJSON takes a number or a text.
func (a *AddressType) UnmarshalJSON(data []byte) error {
	*a = AddressType(strings.Trim(string(data), `"`))
	return nil
}

// Decode reads one line, without its end. A line that is no JSON, or an internal
// message whose fields are of the wrong types, is an error that quotes at most
// 80 bytes. The message refers to line.
func Decode(line []byte) (Message, error) {
	if !json.Valid(line) {
		return Message{}, fmt.Errorf("no JSON: %.80q", line)
	}
	m := Message{Raw: line}
	if !bytes.Contains(line, []byte(`"NODE_`)) || bytes.TrimLeft(line, " \t\r")[0] != '{' {
		return m, nil
	}
	var head struct {
		Cmd json.RawMessage `json:"cmd"`
	}
	_ = json.Unmarshal(line, &head) // it is JSON, and an object
	var cmd string
	if json.Unmarshal(head.Cmd, &cmd) != nil || len(cmd) <= len("NODE_") || !strings.HasPrefix(cmd, "NODE_") {
		return m, nil // a user's (lib/internal/child_process.js, isInternal)
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return Message{}, fmt.Errorf("internal message %.80q: %w", line, err)
	}
	m.Raw = line
	return m, nil
}

// Server is where an app wants a server: the tuple by which Node tells servers
// of one worker apart, and all workers' servers of one address together.
type Server struct {
	Network string // tcp4, tcp6 (also of IPv4, unless IPv6Only), unix, udp4, udp6, fd
	Host    string // empty: every address, IPv6 where there is any; the path of a unix socket, @ first when abstract
	Port    int    // 0: any; of fd the number
	Index   int    // of those with the same tuple in a worker, from 0

	IPv6Only bool
}

// String is what a person calls it.
func (s Server) String() string {
	switch s.Network {
	case "unix":
		return "unix:" + s.Host
	case "fd":
		return "descriptor " + strconv.Itoa(s.Port)
	}
	host := s.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	text := host + ":" + strconv.Itoa(s.Port)
	if s.UDP() {
		text = "udp " + text
	}
	return text
}

// UDP reports whether it is a datagram socket.
func (s Server) UDP() bool { return s.Network == "udp4" || s.Network == "udp6" }

// Wants is the server that a QueryServer message asks for.
func (m Message) Wants() (Server, error) {
	if m.FD != nil && *m.FD >= 0 {
		return Server{Network: "fd", Port: *m.FD, Index: m.Index}, nil
	}
	if m.Index < 0 {
		return Server{}, fmt.Errorf("index %d", m.Index)
	}
	s := Server{Index: m.Index}
	if m.Address != nil {
		s.Host = *m.Address
	}
	switch m.AddressType {
	case "-1":
		s.Network = "unix"
		// A path that begins with NUL is an abstract socket, which Node joins to
		// the working directory as if it were a file's.
		if _, name, abstract := strings.Cut(s.Host, "\x00"); abstract {
			s.Host = "@" + strings.TrimRight(name, "\x00")
		}
		if len(s.Host) < 2 {
			return Server{}, fmt.Errorf("path %q", s.Host)
		}
		return s, nil
	case "4":
		s.Network = "tcp4" // with no host, Node means both
	case "6":
		s.Network, s.IPv6Only = "tcp6", m.Flags&FlagIPv6Only != 0
	case "udp4", "udp6":
		s.Network = string(m.AddressType)
		s.IPv6Only = m.AddressType == "udp6" && m.Flags&FlagIPv6Only != 0
	default:
		return Server{}, fmt.Errorf("address type %.20q", m.AddressType)
	}
	if m.Port == nil {
		return s, nil
	}
	port, err := strconv.Atoi(m.Port.String())
	if err != nil || port < 0 || port > 65535 {
		return Server{}, fmt.Errorf("port %.20q", m.Port.String())
	}
	s.Port = port
	return s, nil
}

// Sockname is what the server.address() of a worker will be.
type Sockname struct {
	Address string `json:"address"`
	Family  string `json:"family"` // IPv4, IPv6
	Port    int    `json:"port"`
}

// Reply is a Cluster message of the primary's.
type Reply struct {
	Cmd Cmd    `json:"cmd"` // Encode sets it
	Act Act    `json:"act,omitempty"`
	Ack *int64 `json:"ack,omitempty"`
	Key string `json:"key,omitempty"`
	// Errno answers QueryServer: nil and 0 are success. With 0 the worker checks
	// that the socket has the port it asked for; with nil it takes any.
	Errno    *int            `json:"errno,omitempty"`
	Sockname *Sockname       `json:"sockname,omitempty"`
	Data     json.RawMessage `json:"data"`
	Seq      int64           `json:"seq"`
}

// Encode is the reply's line, as the message of a Handle of that type unless it
// is empty.
func (r Reply) Encode(handle string) []byte {
	r.Cmd = Cluster
	if r.Data == nil {
		r.Data = json.RawMessage("null")
	}
	if handle == "" {
		return line(r)
	}
	return line(struct {
		Cmd  Cmd    `json:"cmd"`
		Type string `json:"type"`
		Msg  Reply  `json:"msg"`
	}{Handle, handle, r})
}

// Word is the line of an internal message that is nothing but its Cmd, and the
// key where it is about one: HandleAck, HandleNack, AllClosed, Count (of 0).
func Word(cmd Cmd, key string) []byte {
	word := struct {
		Cmd   Cmd    `json:"cmd"`
		Key   string `json:"key,omitempty"`
		Count *int   `json:"count,omitempty"`
	}{Cmd: cmd, Key: key}
	if cmd == Count {
		word.Count = new(int)
	}
	return line(word)
}

// NewTickets is the line that brings keys of session tickets: in place of which, each
// in hex.
func NewTickets(next map[string]string) []byte {
	return line(struct {
		Cmd  Cmd               `json:"cmd"`
		Next map[string]string `json:"next"`
	}{Tickets, next})
}

// UserLine is the line of a user's message. The worker throws upon a line that
// is no JSON, so that is an error here.
func UserLine(value json.RawMessage) ([]byte, error) {
	if !json.Valid(value) {
		return nil, fmt.Errorf("no JSON: %.80q", value)
	}
	var one bytes.Buffer
	if err := json.Compact(&one, value); err != nil {
		return nil, err
	}
	one.WriteByte('\n')
	return one.Bytes(), nil
}

func line(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("node: " + err.Error()) // texts and numbers, and JSON that was decoded before
	}
	return append(text, '\n')
}

// ErrLine says that a line was longer than MaxLine; it is thrown away.
var ErrLine = errors.New("a line is longer than " + strconv.Itoa(MaxLine>>20) + " MiB")
