//go:build unguarded

package engine

const guarding = false
