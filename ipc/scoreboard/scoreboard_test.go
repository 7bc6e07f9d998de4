package scoreboard

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"drover/internal/sys"
)

// shared gives both sides of one board, as a master and a worker map it.
func shared(t testing.TB) (master, worker *Board) {
	t.Helper()
	master, fd, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	worker, err = Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); worker.Close() })
	return master, worker
}

func TestMasterReadsWhatTheWorkerCounts(t *testing.T) {
	master, worker := shared(t)
	if s := master.Snapshot(); s != (Snapshot{}) {
		t.Fatalf("a new board is not all zero: %+v", s)
	}
	worker.Count()
	worker.Beat()
	worker.Accepted()
	worker.Accepted()
	worker.Closed()
	one := worker.Begin(time.Time{}, []byte("GET"), []byte("/a?secret=1"))
	worker.End(one, 200, 100, 1000)
	two := worker.Begin(time.Time{}, []byte("POST"), []byte("/b"))
	worker.End(two, 503, 1, 1)
	worker.End(worker.Begin(time.Time{}, nil, nil), 999, -5, 0)
	worker.Panicked()
	worker.Dropped()
	worker.NoteSchedWait(3 * time.Millisecond)
	open := worker.Begin(time.Time{}, []byte("PROPPATCH"), []byte("/long"+strings.Repeat("x", 200)))
	s := master.Snapshot()
	if !s.Counted || s.Heartbeat == 0 || s.Requests != 3 || s.Status != [6]uint64{1, 0, 1, 0, 0, 1} || s.BytesIn != 101 || s.BytesOut != 1001 ||
		s.Accepted != 2 || s.Connections != 1 || s.InFlight != 1 || s.Panics != 1 || s.Dropped != 1 || s.SchedWait != 3*time.Millisecond {
		t.Errorf("%+v", s)
	}
	got := master.InFlight(nil)
	if len(got) != 1 || got[0].Method != "PROPPATC" || len(got[0].Path) != MaxPath || !strings.HasPrefix(got[0].Path, "/longx") {
		t.Errorf("in flight: %+v", got)
	}
	if r := master.Oldest(); r.Age <= 0 || r.Method != "PROPPATC" {
		t.Errorf("the oldest request is %+v", r)
	}
	worker.Upgraded(open)
	worker.SocketOpened()
	worker.SocketOpened()
	worker.SocketClosed()
	if s := master.Snapshot(); s.InFlight != 0 || s.Sockets != 1 || s.Requests != 3 || len(master.InFlight(nil)) != 0 {
		t.Errorf("after the upgrade: %+v", s)
	}
}

func TestQueryIsNeverKept(t *testing.T) {
	master, worker := shared(t)
	for _, path := range []string{"/p?token=hunter2", "?token=hunter2", "/" + strings.Repeat("y", MaxPath-1) + "?token=hunter2", "/" + strings.Repeat("y", MaxPath-5) + "?token=hunter2"} {
		token := worker.Begin(time.Time{}, []byte("GET"), []byte(path))
		if got := master.InFlight(nil); len(got) != 1 || strings.Contains(got[0].Path, "?") || strings.Contains(got[0].Path, "hunter") {
			t.Errorf("%s is kept as %+v", path, got)
		}
		worker.End(token, 200, 0, 0)
	}
}

func TestFullTableLosesEntriesOnly(t *testing.T) {
	master, worker := shared(t)
	var tokens []Token
	for range 3 * TableSize {
		tokens = append(tokens, worker.Begin(time.Time{}, []byte("GET"), []byte("/")))
	}
	if s := master.Snapshot(); s.InFlight != 3*TableSize {
		t.Errorf("%d in flight, want %d", s.InFlight, 3*TableSize)
	}
	if n := len(master.InFlight(nil)); n != TableSize {
		t.Errorf("%d entries, want a full table of %d", n, TableSize)
	}
	for _, token := range tokens {
		worker.End(token, 200, 0, 0)
	}
	if s := master.Snapshot(); s.InFlight != 0 || s.Requests != 3*TableSize || len(master.InFlight(nil)) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestReaderNeverSeesATornEntry(t *testing.T) {
	master, worker := shared(t)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			path := []byte("/" + strings.Repeat(string(rune('a'+w)), 80))
			for {
				select {
				case <-stop:
					return
				default:
					worker.End(worker.Begin(time.Time{}, []byte("GET"), path), 200, 1, 1)
				}
			}
		})
	}
	seen := 0
	for i := 0; seen < 200 && i < 20_000; i++ {
		for _, r := range master.InFlight(nil) {
			seen++
			if r.Method != "GET" || r.Path != "/"+strings.Repeat(r.Path[1:2], 80) {
				t.Fatalf("torn: %+v", r)
			}
		}
		runtime.Gosched()
	}
	close(stop)
	writers.Wait()
	if seen == 0 {
		t.Fatal("no request in flight was ever seen")
	}
	if s := master.Snapshot(); s.InFlight != 0 || s.BytesIn != s.Requests || s.Requests == 0 {
		t.Errorf("%+v", s)
	}
}

// The layout is what two processes of different builds agree on.
func TestLayoutIsPinned(t *testing.T) {
	var l layout
	var e entry
	got := fmt.Sprintf("version %d size %d magic %d version %d size %d heartbeat %d counting %d begun %d upgraded %d status %d in %d out %d accepted %d panics %d connections %d dropped %d schedWait %d sockets %d latency %d table %d; entry %d state %d methodLen %d pathLen %d start %d method %d path %d",
		Version, unsafe.Sizeof(l), unsafe.Offsetof(l.magic), unsafe.Offsetof(l.version), unsafe.Offsetof(l.size), unsafe.Offsetof(l.heartbeat), unsafe.Offsetof(l.counting),
		unsafe.Offsetof(l.begun), unsafe.Offsetof(l.upgraded), unsafe.Offsetof(l.status), unsafe.Offsetof(l.bytesIn), unsafe.Offsetof(l.bytesOut), unsafe.Offsetof(l.accepted), unsafe.Offsetof(l.panics),
		unsafe.Offsetof(l.connections), unsafe.Offsetof(l.dropped), unsafe.Offsetof(l.schedWait), unsafe.Offsetof(l.sockets), unsafe.Offsetof(l.latency), unsafe.Offsetof(l.table), unsafe.Sizeof(e), unsafe.Offsetof(e.state),
		unsafe.Offsetof(e.methodLen), unsafe.Offsetof(e.pathLen), unsafe.Offsetof(e.start), unsafe.Offsetof(e.method), unsafe.Offsetof(e.path))
	const want = "version 4 size 33888 magic 0 version 8 size 12 heartbeat 64 counting 72 begun 128 upgraded 136 status 144 in 192 out 200 accepted 208 panics 216 connections 224 dropped 232 schedWait 240 sockets 248 latency 256 table 1120; entry 128 state 0 methodLen 4 pathLen 5 start 8 method 24 path 32"
	if got != want {
		t.Errorf("the layout changed: give it a new Version and pin it here\n got %s\nwant %s", got, want)
	}
}

func TestOpenRefusesWhatIsNoBoard(t *testing.T) {
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := Open(int(plain.Fd())); err == nil || !strings.Contains(err.Error(), "no sealed memory") {
		t.Errorf("a file: %v", err)
	}
	fd, _, err := sys.SealedMemory("short", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if _, err := Open(fd); err == nil || !strings.Contains(err.Error(), "4096 bytes") {
		t.Errorf("short memory: %v", err)
	}
	fd, memory, err := sys.SealedMemory("zero", sys.SizeOf[layout]())
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if _, err := Open(fd); err == nil || !strings.Contains(err.Error(), "begins with") {
		t.Errorf("zeros: %v", err)
	}
	mem, _ := sys.At[layout](memory)
	mem.magic, mem.version = magic, Version+1
	if _, err := Open(fd); err == nil || !strings.Contains(err.Error(), "version 5") {
		t.Errorf("another version: %v", err)
	}
}

func TestNobodyCanTruncateABoard(t *testing.T) {
	b, fd, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	defer b.Close()
	if err := syscall.Ftruncate(fd, 0); err != syscall.EPERM {
		t.Errorf("ftruncate: %v, want EPERM", err)
	}
}

// A worker may scribble over its board: the master reads on.
func FuzzSnapshot(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte(strings.Repeat("\xff", 4096)), uint16(1000))
	f.Fuzz(func(t *testing.T, scribble []byte, at uint16) {
		memory := make([]byte, sys.SizeOf[layout]()+8)
		memory = memory[int(-uintptr(unsafe.Pointer(unsafe.SliceData(memory)))&7):]
		for i := range memory {
			memory[i] = 1
		}
		copy(memory[min(int(at), len(memory)):], scribble)
		mem, err := sys.At[layout](memory)
		if err != nil {
			t.Fatal(err)
		}
		b := newBoard(mem, nil)
		var total Totals
		total.Add(b.Snapshot())
		for _, r := range b.InFlight(nil) {
			if len(r.Path) > MaxPath || len(r.Method) > MaxMethod || r.Age < 0 {
				t.Errorf("%+v", r)
			}
		}
		_, _ = view(memory[:len(scribble)%len(memory)])
	})
}

func TestHistogramBuckets(t *testing.T) {
	last := -1
	for _, d := range []time.Duration{0, time.Microsecond, 2 * time.Microsecond, 3 * time.Microsecond, 4 * time.Microsecond, 7 * time.Microsecond,
		8 * time.Microsecond, 100 * time.Microsecond, time.Millisecond, 20 * time.Millisecond, time.Second, 59 * time.Second, time.Hour} {
		i := bucket(int64(d))
		if i <= last {
			t.Errorf("%v is in bucket %d, not above %d", d, i, last)
		}
		last = i
		if d >= UpperBound(i) || i > 0 && d < UpperBound(i-1) {
			t.Errorf("%v is in bucket %d, which is from %v to %v", d, i, UpperBound(max(0, i-1)), UpperBound(i))
		}
	}
	if got := bucket(-1); got != 0 {
		t.Errorf("a negative duration is in bucket %d", got)
	}
	var h Histogram
	for i := range 100 {
		h[bucket(int64(time.Duration(i)*time.Millisecond))]++
	}
	if p99 := h.Quantile(0.99); p99 < 98*time.Millisecond || p99 > 130*time.Millisecond {
		t.Errorf("p99 of 0 to 99 ms is %v", p99)
	}
	bounds := make([]time.Duration, Buckets)
	for i := range bounds {
		bounds[i] = UpperBound(i)
	}
	if !slices.IsSorted(bounds) {
		t.Error("the bounds do not rise")
	}
}

func TestTotalsAddUp(t *testing.T) {
	var total Totals
	for range 2 {
		b := Private()
		b.Accepted()
		b.End(b.Begin(time.Time{}, []byte("GET"), []byte("/")), 404, 10, 20)
		total.Add(b.Snapshot())
	}
	if total.Requests != 2 || total.Status[4] != 2 || total.BytesOut != 40 || total.Accepted != 2 {
		t.Errorf("%+v", total)
	}
}

// go test -bench Request ./ipc/scoreboard: the cost of a request's counting,
// clock reads included.
func BenchmarkRequest(b *testing.B) {
	_, worker := shared(b)
	method, path := []byte("GET"), []byte("/api/v1/users/12345/orders?p=1")
	for b.Loop() {
		worker.End(worker.Begin(time.Time{}, method, path), 200, 120, 340)
	}
}
