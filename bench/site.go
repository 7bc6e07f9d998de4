package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// site is the directory of a run, with all that servers are given.
type site struct {
	dir     string // everything is below it
	files   string // the directory of /64k.bin and /1m.bin
	cert    string
	key     string
	script  string // wrk's, for pipelining
	redis   string // the address of what stands for Redis; empty while there is none
	workers int

	built   bool // the Go program that most of the Go servers are modes of
	peer    string
	peerErr error

	redisBinary string // empty until it is needed
}

// newSite fills a directory.
func newSite(dir string, workers int) (*site, error) {
	s := &site{
		dir: dir, workers: workers, files: filepath.Join(dir, "files"), script: filepath.Join(dir, "pipeline.lua"),
		cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"),
	}
	if err := os.Mkdir(s.files, 0o755); err != nil {
		return nil, fmt.Errorf("make the files to serve: %w", err)
	}
	bytes := make([]byte, 1<<20)
	mathrand.NewChaCha8([32]byte{}).Read(bytes) // never fails, and the same each time
	for name, n := range map[string]int{"64k.bin": 64 << 10, "1m.bin": 1 << 20} {
		if err := os.WriteFile(filepath.Join(s.files, name), bytes[:n], 0o644); err != nil {
			return nil, fmt.Errorf("make the files to serve: %w", err)
		}
	}
	if err := os.WriteFile(s.script, []byte(pipelineScript), 0o644); err != nil {
		return nil, fmt.Errorf("write wrk's script: %w", err)
	}
	if err := s.certify(); err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return s, nil
}

// certify makes a self-signed certificate of the usual kind: ECDSA on P-256.
func (s *site) certify() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
}

// write puts a configuration file into the directory and returns its path.
func (s *site) write(name, text string) (string, error) {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write a server's configuration: %w", err)
	}
	return path, nil
}

// goBuild builds a package of the module in dir, and returns the binary.
func (s *site) goBuild(ctx context.Context, dir, pkg, name string, flags ...string) (string, error) {
	binary := filepath.Join(s.dir, name)
	return binary, build(ctx, dir, "go", slices.Concat([]string{"build", "-buildvcs=false", "-o", binary}, flags, []string{pkg})...)
}

// gcc builds a C source of this module.
func (s *site) gcc(ctx context.Context, source, name string) (string, error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", err
	}
	binary := filepath.Join(s.dir, name)
	return binary, build(ctx, ".", "gcc", "-O2", "-o", binary, source)
}

// build runs a compiler, at most for five minutes.
func build(ctx context.Context, dir, tool string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	said := tool + " " + strings.Join(args, " ")
	if ctx.Err() != nil {
		return fmt.Errorf("%s was ended: %w", said, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", said, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// startRedis starts what stands for Redis. The caller stops it.
func (s *site) startRedis(ctx context.Context) (*running, error) {
	if s.redisBinary == "" {
		binary, err := s.gcc(ctx, "peer/c/redis.c", "redis")
		if err != nil {
			return nil, missing(err, "what stands for Redis", "apt-get install gcc libc6-dev")
		}
		s.redisBinary = binary
	}
	r, err := server{name: "redis", sockets: 1, command: func(_ load, port int) (command, error) {
		s.redis = local(port)
		return command{args: []string{s.redisBinary, strconv.Itoa(port)}}, nil
	}}.start(s.dir, load{})
	if err != nil {
		return nil, err
	}
	if err := r.up(ctx); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}
