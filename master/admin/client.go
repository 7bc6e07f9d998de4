package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

// Client speaks to one master. It holds no connection between calls.
type Client struct {
	Name string
	http http.Client
}

// ErrNoMaster says that no master runs in the runtime directory.
var ErrNoMaster = errors.New("no drover is running")

// Dial finds a master in the runtime directory dir by its name; an empty name
// finds the only one that runs. It connects to nothing yet.
func Dial(dir, name string) (*Client, error) {
	names, err := Names(dir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		switch len(names) {
		case 0:
			return nil, fmt.Errorf("%w (looked in %s)", ErrNoMaster, dir)
		case 1:
			name = names[0]
		default:
			return nil, fmt.Errorf("%d apps are running: say which with --name: %s", len(names), strings.Join(names, ", "))
		}
	}
	path := filepath.Join(dir, name+".sock")
	return &Client{
		Name: name,
		http: http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
				if err != nil {
					return nil, fmt.Errorf("reach drover %q at %s: %w (running: %s)", name, path, reason(err), orNone(names))
				}
				return conn, nil
			},
		}},
	}, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// reason strips the words that package net puts around an error.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Status asks for the master's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

// Reload replaces every worker by one of a new generation. It blocks until that
// is done, and returns why when the old generation serves on.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil)
}

// Restart replaces the worker of one slot, and blocks until that is done.
func (c *Client) Restart(ctx context.Context, slot int) error {
	return c.call(ctx, http.MethodPost, "/v1/restart?slot="+strconv.Itoa(slot), nil)
}

// Scale changes the number of workers, and blocks until so many serve.
func (c *Client) Scale(ctx context.Context, workers int) error {
	return c.call(ctx, http.MethodPost, "/v1/scale?workers="+strconv.Itoa(workers), nil)
}

// Stop tells the master to stop gracefully, and returns when it has begun to.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", nil)
}

func (c *Client) call(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+"drover"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var inner interface{ Unwrap() error } // *url.Error: its words are about URLs that nobody typed
		if errors.As(err, &inner) && inner.Unwrap() != nil {
			err = inner.Unwrap()
		}
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("drover %q ended before it answered", c.Name)
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		var p problem
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Error == "" {
			return fmt.Errorf("drover %q answered %s", c.Name, resp.Status)
		}
		return errors.New(p.Error)
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the answer of drover %q: %w", c.Name, err)
	}
	return nil
}
