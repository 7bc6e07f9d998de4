package main

// bound is what drover has promised under a load: its CPU time per request, as
// a ratio to another server's in the same round.
type bound struct {
	load, server string  // a load's name and a server's key
	must, aim    float64 // 0 is none
}

// bounds are the promises. A table says which are kept; a missed one fails no
// run, since it may be the machine's.
var bounds = []bound{
	{"keepalive-c64", "prefork", 0.58, 0.50},
	{"keepalive-c64", "nginx", 1.05, 0.95},
	{"keepalive-c64", "c", 1.25, 1.12},
	{"keepalive-c64", "node", 0.32, 0},
	{"keepalive-c64", "drover-unguarded", 1.03, 0},
	{"keepalive-c512", "prefork", 0.55, 0.45},
	{"keepalive-c512", "nginx", 1.05, 0.93},
	{"keepalive-c512", "c", 1.25, 1.12},
	{"keepalive-c512", "node", 0.25, 0},
	{"pipelined-16", "prefork", 0.80, 0.65},
	{"pipelined-16", "nginx", 0.22, 0},
	{"pipelined-16", "c", 1.8, 1.5},
	{"pipelined-16", "node", 0.07, 0},
	{"close-c64", "prefork", 0.45, 0.38},
	{"close-c64", "nginx", 0.90, 0.80},
	{"close-c64", "nginx-deferred", 1.25, 1.10},
	{"close-c64", "c", 1.3, 1.1},
	{"close-c64", "node", 0.10, 0},
	{"file-1m", "prefork", 1.00, 0},
	{"file-1m", "nginx", 0.50, 0},
	{"file-1m", "node", 0.10, 0},
	{"tls-c64", "prefork", 0.50, 0},
	{"tls-c64", "nginx", 0.98, 0.88},
	{"tls-c64", "node", 0.15, 0},
	{"tls-full", "nginx", 1.00, 0},    // at least as many per CPU second
	{"tls-resume", "nginx", 0.833, 0}, // at least 1.2 times as many
	{"redis-c64", "prefork", 0.70, 0},
	{"redis-c64", "node", 0.5, 0},
}

// verdict says how a ratio stands to a bound.
func (b bound) verdict(ratio float64) string {
	switch {
	case b.must > 0 && ratio > b.must:
		return "**missed**"
	case b.aim > 0 && ratio > b.aim:
		return "met, aim missed"
	}
	return "met"
}
