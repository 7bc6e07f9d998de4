package main

import (
	"maps"
	"testing"
)

const straceTable = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.80    1.104422           9    114200           write
 36.67    0.655356           5    114296        31 read
  1.45    0.025890          17      1485           epoll_pwait
  0.00    0.000000           0         1           getpid
------ ----------- ----------- --------- --------- ----------------
100.00    1.787017           7    229982        31 total
`

func TestParseStrace(t *testing.T) {
	count, failed, err := parseStrace(straceTable)
	if err != nil {
		t.Fatal(err)
	}
	if want := (map[string]int64{"write": 114200, "read": 114296, "epoll_pwait": 1485, "getpid": 1}); !maps.Equal(count, want) {
		t.Errorf("counted %v, want %v", count, want)
	}
	if want := (map[string]int64{"read": 31}); !maps.Equal(failed, want) {
		t.Errorf("failed %v, want %v", failed, want)
	}
	c := calls{Requests: 1000, Count: map[string]int64{"read": 1500, "recvfrom": 250}}
	if got := c.per(reads...); got != 1.75 {
		t.Errorf("%v reads per request, want 1.75", got)
	}
	for _, bad := range []string{"", "strace: attach: Operation not permitted\n", "% time\n------ ---\n------ ---\n", straceTable[:140] + "\n 1.0 0.1 9 x read\n"} {
		if count, _, err := parseStrace(bad); err == nil {
			t.Errorf("%q: no error, but %v", bad, count)
		}
	}
}
