package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Whom a Post is for, where that is not a slot.
const (
	ToAll    = -1 // every worker, its sender too
	ToOthers = -2
)

// Post is a message that one worker has for others, of the same app, whose primary
// passes it on: process.send({drover: "others", message: value}).
type Post struct {
	To    int // a slot, ToAll or ToOthers
	Value json.RawMessage
}

// ParsePost reads a user's message as a Post, if it is one. Its error says what is
// wrong with one.
func ParsePost(value []byte) (post Post, is bool, err error) {
	if !bytes.Contains(value, []byte(`"drover"`)) { // most are none
		return Post{}, false, nil
	}
	var m struct {
		To      json.RawMessage `json:"drover"`
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal(value, &m) != nil || m.To == nil {
		return Post{}, false, nil
	}
	post.Value = m.Message
	slot, err := strconv.Atoi(string(m.To))
	switch {
	case string(m.To) == `"all"`:
		post.To = ToAll
	case string(m.To) == `"others"`:
		post.To = ToOthers
	case err == nil && slot >= 0:
		post.To = slot
	default:
		return Post{}, true, fmt.Errorf("it sends a message to {drover: %.40s}: want \"others\", \"all\", or the number of a slot", m.To)
	}
	if m.Message == nil {
		return Post{}, true, fmt.Errorf("it sends nothing to {drover: %.40s}: want what is to be sent as message", m.To)
	}
	return post, true, nil
}
