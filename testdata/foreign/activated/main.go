// Command activated is a server on go-systemd's socket activation, which knows
// nothing of drover.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	listeners, err := activation.ListenersWithNames()
	if err != nil {
		return err
	}
	web := listeners["web"]
	if len(web) != 1 {
		return fmt.Errorf("want one listener named web, got %v", listeners)
	}
	// Shutdown would drop a request that is first read after it began: count what
	// is open instead, and wait for that.
	var open sync.WaitGroup
	server := http.Server{ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-time.After(200 * time.Millisecond)
		}
		w.Header().Set("Connection", "close")
		io.WriteString(w, "ok")
	})}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	go func() {
		<-ctx.Done()
		if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		web[0].Close()
	}()
	if sent, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil || !sent {
		return fmt.Errorf("notify: sent %v, %w", sent, err)
	}
	if err := server.Serve(web[0]); !errors.Is(err, net.ErrClosed) {
		return err
	}
	open.Wait()
	return nil
}
