package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"drover/internal/sys"
)

// Master is what the control socket asks of a master. Its methods block until
// the thing is done or has failed, and may be called by many goroutines.
type Master interface {
	Status(context.Context) (Status, error)
	// AppMetrics are those that the app's own programs tell, merged.
	AppMetrics(context.Context) []Family
	Reload(context.Context) error
	Restart(ctx context.Context, slot int) error
	Scale(ctx context.Context, workers int) error
	Stop(context.Context) error // returns when the stop has begun
	// Send sends a message to the Node worker that serves a slot, or to all with -1.
	Send(ctx context.Context, slot int, value json.RawMessage) error
	// Messages calls each with what Node workers tell their primary, until ctx or the
	// app ends, or each returns an error.
	Messages(ctx context.Context, each func(Message) error) error
}

// maxMessage bounds a message that is sent to Node workers, in bytes.
const maxMessage = 4 << 20

// Server serves a control socket until Close.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers on l, which it takes over, in a goroutine of its own.
//
//	GET  /metrics                  200 with metrics in Prometheus' text format
//	GET  /v1/status                200 with a Status
//	POST /v1/reload                204 when every worker is replaced
//	POST /v1/restart?slot=N        204 when slot N has a new worker
//	POST /v1/scale?workers=N       204 when N workers serve
//	POST /v1/stop                  202 when the stop has begun
//	POST /v1/send?slot=N           204 when the body, a JSON value, is on its way to slot N's
//	                               Node worker; without slot to all
//	GET  /v1/messages              200 with a Message a line, as they come, to the app's end
//
// What could not be done is 409 with {"error": why}; other users get 403.
func Serve(l net.Listener, m Master) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		status, err := m.Status(r.Context())
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		status, err := m.Status(r.Context())
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = writeMetrics(w, status, m.AppMetrics(r.Context()))
	})
	do := func(pattern string, done int, act func(*http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := act(r); err != nil {
				refuse(w, http.StatusConflict, err)
				return
			}
			w.WriteHeader(done)
		})
	}
	do("POST /v1/reload", http.StatusNoContent, func(r *http.Request) error { return m.Reload(r.Context()) })
	do("POST /v1/stop", http.StatusAccepted, func(r *http.Request) error { return m.Stop(r.Context()) })
	do("POST /v1/restart", http.StatusNoContent, func(r *http.Request) error {
		slot, err := strconv.Atoi(r.FormValue("slot"))
		if err != nil {
			return fmt.Errorf("restart slot %q: want a slot's number, such as 0", r.FormValue("slot"))
		}
		return m.Restart(r.Context(), slot)
	})

	do("POST /v1/scale", http.StatusNoContent, func(r *http.Request) error {
		workers, err := strconv.Atoi(r.FormValue("workers"))
		if err != nil {
			return fmt.Errorf("scale to %q: want a number of workers, such as 2", r.FormValue("workers"))
		}
		return m.Scale(r.Context(), workers)
	})

	do("POST /v1/send", http.StatusNoContent, func(r *http.Request) error {
		slot := -1
		if text := r.URL.Query().Get("slot"); text != "" {
			var err error
			if slot, err = strconv.Atoi(text); err != nil || slot < 0 {
				return fmt.Errorf("send to slot %q: want a slot's number, such as 0", text)
			}
		}
		value, err := io.ReadAll(io.LimitReader(r.Body, maxMessage+1))
		switch {
		case err != nil:
			return fmt.Errorf("send: read the message: %w", err)
		case len(value) > maxMessage:
			return fmt.Errorf("send: the message has more than %d MiB: want at most that", maxMessage>>20)
		}
		if value, err = Compact(value); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		return m.Send(r.Context(), slot, value)
	})
	mux.HandleFunc("GET /v1/messages", func(w http.ResponseWriter, r *http.Request) {
		out, lines := http.NewResponseController(w), json.NewEncoder(w)
		lines.SetEscapeHTML(false)
		err := m.Messages(r.Context(), func(msg Message) error {
			if err := lines.Encode(msg); err != nil {
				return err
			}
			return out.Flush()
		})
		if err != nil {
			refuse(w, http.StatusConflict, err)
		}
	})

	s := &Server{
		http: &http.Server{
			Handler:           sameUser(mux),
			ReadHeaderTimeout: 10 * time.Second,
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, peerKey{}, peerUID(c))
			},
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l) // ends by Close
	}()
	return s
}

// Close ends the server and waits for its goroutine. Requests that still wait
// get what is sent within the given time.
func (s *Server) Close(atMost time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	<-s.done
}

// Compact gives a JSON value on one line, as a message to a Node worker is. Its error
// says what would be right.
func Compact(value []byte) (json.RawMessage, error) {
	var line bytes.Buffer
	if err := json.Compact(&line, value); err != nil {
		return nil, fmt.Errorf("%.40q is no JSON (%w): want a value, such as '{\"type\": \"refresh\"}' or '\"hello\"'", value, err)
	}
	return line.Bytes(), nil
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(problem{err.Error()})
}

type problem struct {
	Error string `json:"error"`
}

type peerKey struct{}

func peerUID(c net.Conn) int {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return -1
	}
	uid := -1
	if err := raw.Control(func(fd uintptr) { uid, err = sys.PeerUID(int(fd)) }); err != nil {
		return -1
	}
	return uid
}

// sameUser lets in the master's own user and root. The directory's and the
// socket's modes say the same; this holds where they were changed.
func sameUser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid := r.Context().Value(peerKey{}).(int); uid != 0 && uid != os.Geteuid() {
			refuse(w, http.StatusForbidden, errors.New("this master is another user's"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
