package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"drover/examples/internal/start"

	"github.com/coder/websocket"
)

func TestMain(m *testing.M) { start.Main(m, main) }

func TestWebSocket(t *testing.T) {
	start.Both(t, func(t *testing.T, engine string) {
		p := start.Example(t, "ENGINE="+engine)
		ctx, cancel := context.WithTimeout(t.Context(), start.Patience)
		defer cancel()
		url := "ws" + strings.TrimPrefix(p.URL, "http")
		if _, answer, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://elsewhere.example"}}}); err == nil || answer.StatusCode != http.StatusForbidden {
			t.Errorf("another site's script: %v, %+v", err, answer)
		}
		c, _, err := websocket.Dial(ctx, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		for _, text := range []string{"one", "two"} {
			if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if kind, got, err := c.Read(ctx); err != nil || kind != websocket.MessageText || string(got) != text {
				t.Fatalf("%v %q, %v, want %q", kind, got, err, text)
			}
		}
		if metrics := p.Metrics(t); !strings.Contains(metrics, "\ndrover_worker_sockets{slot=\"0\"} 1\n") {
			t.Errorf("one socket is open, but the metrics say\n%s", metrics)
		}
		stopped := make(chan string)
		go func() { stopped <- p.Stop(t) }()
		_, _, err = c.Read(ctx)
		if code := websocket.CloseStatus(err); code != websocket.StatusGoingAway || !strings.Contains(err.Error(), goodbye) {
			t.Errorf("the worker leaves, and the client gets %v", err)
		}
		<-stopped
	})
}
