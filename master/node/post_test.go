package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePost(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Post
		is   bool
		err  string
	}{
		{`{"drover":"others","message":{"a":1}}`, Post{ToOthers, []byte(`{"a":1}`)}, true, ""},
		{`{"message":null,"drover":"all"}`, Post{ToAll, []byte(`null`)}, true, ""},
		{`{"drover":3,"message":"drover"}`, Post{3, []byte(`"drover"`)}, true, ""},
		{`{"drover":-1,"message":1}`, Post{}, true, `{drover: -1}: want "others", "all", or the number of a slot`},
		{`{"drover":"me","message":1}`, Post{}, true, `{drover: "me"}: want`},
		{`{"drover":"all"}`, Post{}, true, `it sends nothing to {drover: "all"}: want what is to be sent as message`},
		{`{"a":{"drover":"all","message":1}}`, Post{}, false, ""},
		{`["drover"]`, Post{}, false, ""},
		{`"drover"`, Post{}, false, ""},
		{`{"type":"process:msg","data":{}}`, Post{}, false, ""},
	} {
		post, is, err := ParsePost([]byte(c.in))
		if diff := cmp.Diff(c.want, post); diff != "" || is != c.is {
			t.Errorf("%s: %v\n%s", c.in, is, diff)
		}
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", c.in, err)
		}
	}
}
