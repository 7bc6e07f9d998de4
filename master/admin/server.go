package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
}

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
