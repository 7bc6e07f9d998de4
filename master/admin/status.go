// Package admin is how people and programs reach a running master: its name
// and control socket in the runtime directory, the HTTP that is spoken there,
// and the client that the commands use.
package admin

import (
	"encoding/json"
	"time"

	"drover/ipc/scoreboard"
)

// Status is what `drover status --json` prints and GET /v1/status answers.
type Status struct {
	Name       string   `json:"name"`
	PID        int      `json:"pid"`
	State      string   `json:"state"` // starting, running, reloading, stopping
	Generation int      `json:"generation"`
	Listen     []Listen `json:"listen"`
	Workers    []Worker `json:"workers"` // one for each life; two of a slot while it is replaced
	Slots      []Slot   `json:"slots"`
	Totals     Totals   `json:"totals"`
	Exits      []Exit   `json:"exits"` // the last 32, newest last
	Master     Itself   `json:"master"`
}

// Itself is what the master takes. None of it grows with the load.
type Itself struct {
	RSSBytes   uint64  `json:"rss_bytes"`
	CPUPercent float64 `json:"cpu_percent"` // as a worker's
	Goroutines int     `json:"goroutines"`
}

// Listen is one address, with the port that it really has.
type Listen struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Steering string `json:"steering"`        // that is active: spread, sticky, cpu, shared
	Slots    []int  `json:"slots,omitempty"` // that new connections go to, when not to all
	Why      string `json:"why,omitempty"`   // it is so, when not as asked
	// Certificates that it is encrypted with; none is plain text.
	Certificates []Certificate `json:"certificates,omitempty"`
}

// Certificate is one that an address shows.
type Certificate struct {
	Names []string  `json:"names"` // hosts and addresses that it is for
	Until time.Time `json:"until"`
}

// Worker is one life. Its counts begin with it.
type Worker struct {
	Slot          int     `json:"slot"`
	ID            uint64  `json:"id"`
	PID           int     `json:"pid"`
	Generation    int     `json:"generation"`
	State         string  `json:"state"`
	Restarts      int     `json:"restarts"` // unplanned deaths of the slot
	UptimeSeconds float64 `json:"uptime_seconds"`
	Requests      uint64  `json:"requests"`
	Connections   int64   `json:"connections"` // open now
	Sockets       int64   `json:"sockets"`     // of those, the ones that were upgraded, such as WebSockets
	InFlight      int64   `json:"in_flight"`   // requests being answered now
	Panics        uint64  `json:"panics"`
	Counted       bool    `json:"counted"` // false: the program serves past drover's engines, and its counts stay 0
	// DroppedMessages are those to it that found no room, and those of it to a
	// slot that nobody serves.
	DroppedMessages uint64 `json:"dropped_messages"`
	// SchedWaitMilliseconds is for how long its goroutines waited for a processor
	// in the second before: the 99th of 100, or the worst heartbeat.
	SchedWaitMilliseconds float64 `json:"sched_wait_ms"`
	Late                  bool    `json:"late"` // it misses its heartbeat
	// Until is when it is killed, unless it is ready, has finished or is gone by
	// then.
	Until *time.Time `json:"until,omitempty"`

	RSSBytes   uint64  `json:"rss_bytes"`
	CPUPercent float64 `json:"cpu_percent"` // since the status before, at least a second; of one CPU
}

// Slot is a place for a worker.
type Slot struct {
	Slot        int        `json:"slot"`
	Restarts    int        `json:"restarts"`
	NextStart   *time.Time `json:"next_start,omitempty"`  // while it waits to be restarted
	EarlyDeaths int        `json:"early_deaths"`          // within the last minute
	FosteredBy  []int      `json:"fostered_by,omitempty"` // slots whose workers accept for it
}

// Totals are the app's counts since its master started, over all lives.
type Totals struct {
	Requests uint64 `json:"requests"`
	Status   struct {
		Informational uint64 `json:"1xx"`
		Success       uint64 `json:"2xx"`
		Redirection   uint64 `json:"3xx"`
		ClientError   uint64 `json:"4xx"`
		ServerError   uint64 `json:"5xx"`
	} `json:"status"`
	BytesIn     uint64 `json:"bytes_in"`
	BytesOut    uint64 `json:"bytes_out"`
	Connections uint64 `json:"connections"` // accepted
	Panics      uint64 `json:"panics"`
	// DroppedMessages are those between workers that found no room, or nobody.
	DroppedMessages uint64 `json:"dropped_messages"`
	// Latency is how long handlers took; only the metrics tell.
	Latency scoreboard.Histogram `json:"-"`
}

// Exit is the end of a life.
type Exit struct {
	Slot    int       `json:"slot"`
	ID      uint64    `json:"id"`
	PID     int       `json:"pid"`
	Reason  string    `json:"reason"`
	Planned bool      `json:"planned"`
	At      time.Time `json:"at"`
}

// Message is what a Node worker told its primary.
type Message struct {
	Slot    int             `json:"slot"`
	ID      uint64          `json:"id"` // of the life
	PID     int             `json:"pid"`
	Message json.RawMessage `json:"message"`
}
