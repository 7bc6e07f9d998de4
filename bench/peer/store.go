package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// store asks a Redis over plain net.Conns, as a driver does: a connection for
// each request in flight, kept for the next.
type store struct {
	address string
	idle    chan *link
}

type link struct {
	net.Conn
	r *bufio.Reader
}

func newStore(address string) *store { return &store{address, make(chan *link, 1024)} }

// get is one round trip.
func (s *store) get(key string) ([]byte, error) {
	var l *link
	select {
	case l = <-s.idle:
	default:
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", key, err)
		}
		l = &link{conn, bufio.NewReader(conn)}
	}
	value, err := l.get(key)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("get %s from %s: %w", key, s.address, err)
	}
	select {
	case s.idle <- l:
	default:
		l.Close()
	}
	return value, nil
}

// get speaks the Redis serialization protocol: an array of bulk strings, and a
// bulk string back (redis.io, "Redis serialization protocol specification").
func (l *link) get(key string) ([]byte, error) {
	ask := make([]byte, 0, 64)
	ask = append(ask, "*2\r\n$3\r\nGET\r\n$"...)
	ask = strconv.AppendInt(ask, int64(len(key)), 10)
	ask = append(ask, "\r\n"...)
	ask = append(ask, key...)
	ask = append(ask, "\r\n"...)
	if _, err := l.Write(ask); err != nil {
		return nil, err
	}
	line, err := l.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(line, "$"), "\r\n"))
	if err != nil || n < 0 || n > 1<<20 {
		return nil, fmt.Errorf("unexpected answer %q", line)
	}
	value := make([]byte, n+2)
	if _, err := io.ReadFull(l.r, value); err != nil {
		return nil, err
	}
	return value[:n], nil
}
