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

// Send sends a message, a JSON value, to the Node worker that serves a slot, or to
// all with a negative one.
func (c *Client) Send(ctx context.Context, slot int, value []byte) error {
	path := "/v1/send"
	if slot >= 0 {
		path += "?slot=" + strconv.Itoa(slot)
	}
	resp, err := c.ask(ctx, http.MethodPost, path, bytes.NewReader(value))
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// Messages calls each with what Node workers tell their primary from now on, until
// the app or ctx ends, or each returns an error, which it returns.
func (c *Client) Messages(ctx context.Context, each func(Message) error) error {
	resp, err := c.ask(ctx, http.MethodGet, "/v1/messages", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var m Message
		if err := lines.Decode(&m); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the messages of drover %q: %w", c.Name, err)
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, answer any) error {
	resp, err := c.ask(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the answer of drover %q: %w", c.Name, err)
	}
	return nil
}

// ask gives an answer that is a good one, whose body the caller closes.
func (c *Client) ask(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+"drover"+path, body)
	if err != nil {
		return nil, err
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
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		var p problem
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Error == "" {
			return nil, fmt.Errorf("drover %q answered %s", c.Name, resp.Status)
		}
		return nil, errors.New(p.Error)
	}
	return resp, nil
}
