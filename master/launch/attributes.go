package launch

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"drover/config"
	"drover/internal/sys"
)

// Attributes are what a process is given before it becomes the program. The zero
// value changes nothing.
type Attributes struct {
	As          *Credentials     `json:"as,omitempty"`
	NoNewPrivs  bool             `json:"no_new_privs,omitempty"`
	OOMScoreAdj int              `json:"oom_score_adj,omitempty"` // 0: as it is
	Rlimits     map[string]int64 `json:"rlimits,omitempty"`

	env map[string]string // of the user
}

// Credentials are who a process is.
type Credentials struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups"`
}

// AttributesOf finds out what a configuration asks for. It looks users and groups
// up. Its error is a *config.Error: what is wrong, and the cure.
func AttributesOf(c config.Config) (Attributes, error) {
	a := Attributes{NoNewPrivs: c.NoNewPrivs, OOMScoreAdj: c.OOMScoreAdj, Rlimits: c.Rlimits}
	root := os.Geteuid() == 0
	for name, n := range c.Rlimits {
		hard, err := sys.HardLimit(name)
		if err != nil {
			return a, wrong("rlimits", "%s: %v", name, err)
		}
		if !root && hard >= 0 && (n < 0 || n > hard) {
			return a, wrong("rlimits", "%s is above %d, the hard limit of drover itself, and only root may raise that: start drover as root or with a higher limit, or ask for less", name, hard)
		}
	}
	if now := sys.OOMScoreAdj(); !root && c.OOMScoreAdj != 0 && c.OOMScoreAdj < now {
		return a, wrong("oom_score_adj", "%d is below drover's own, %d, and only root may lower it: start drover as root, or ask for more", c.OOMScoreAdj, now)
	}
	if c.User == "" && c.Group == "" && c.Groups == nil {
		return a, nil
	}
	as, home, err := credentials(c)
	if err != nil {
		return a, err
	}
	if !root {
		if as.UID == os.Geteuid() && as.GID == os.Getegid() && c.Groups == nil {
			return a, nil // who it is anyway
		}
		return a, wrong("user", "workers cannot become user %d of group %d, since drover runs as user %d: start drover as root, or leave user, group and groups out", as.UID, as.GID, os.Geteuid())
	}
	a.As, a.env = as, home
	return a, nil
}

// credentials look up who the workers are to be, and what the environment says of
// them.
func credentials(c config.Config) (*Credentials, map[string]string, error) {
	as := &Credentials{UID: os.Geteuid(), GID: os.Getegid(), Groups: []int{}}
	var env map[string]string
	if c.User != "" {
		u, err := user.Lookup(c.User)
		if _, isNumber := strconv.ParseUint(c.User, 10, 32); err != nil && isNumber == nil {
			u, err = user.LookupId(c.User)
			if err != nil && c.Group != "" {
				u, err = &user.User{Uid: c.User, Gid: "0"}, nil // nobody's number; the group is given
			} else if err != nil {
				return nil, nil, wrong("user", "%q has no entry in the user database, which would say its group: give group too", c.User)
			}
		}
		if err != nil {
			return nil, nil, wrong("user", "%q: there is no such user: want a name that `getent passwd` lists, or a number", c.User)
		}
		if as.UID, err = strconv.Atoi(u.Uid); err != nil {
			return nil, nil, wrong("user", "%q: %v", c.User, err)
		}
		if as.GID, err = strconv.Atoi(u.Gid); err != nil {
			return nil, nil, wrong("user", "%q: %v", c.User, err)
		}
		if u.Username != "" {
			env = map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username}
			ids, err := u.GroupIds()
			if err != nil && c.Groups == nil {
				return nil, nil, wrong("user", "%q: its groups cannot be found: %v: give groups", c.User, err)
			}
			for _, id := range ids {
				n, err := strconv.Atoi(id)
				if err != nil {
					return nil, nil, wrong("user", "%q: group %q is no number", c.User, id)
				}
				as.Groups = append(as.Groups, n)
			}
		}
	}
	var err error
	if c.Group != "" {
		if as.GID, err = group("group", c.Group); err != nil {
			return nil, nil, err
		}
	}
	if c.Groups != nil {
		as.Groups = []int{}
		for _, name := range c.Groups {
			n, err := group("groups", name)
			if err != nil {
				return nil, nil, err
			}
			as.Groups = append(as.Groups, n)
		}
	}
	return as, env, nil
}

func group(field, name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0, wrong(field, "%q: there is no such group: want a name that `getent group` lists, or a number", name)
	}
	return int(n), nil
}

func wrong(field, format string, args ...any) error {
	return &config.Error{Field: field, Why: fmt.Sprintf(format, args...)}
}

// take gives this process its attributes, the user last: what is before needs
// privileges.
func (a Attributes) take() error {
	for name, n := range a.Rlimits {
		if err := sys.SetRlimit(name, n); err != nil {
			return err
		}
	}
	if a.OOMScoreAdj != 0 {
		if err := sys.SetOOMScoreAdj(a.OOMScoreAdj); err != nil {
			return err
		}
	}
	if a.As != nil {
		if err := sys.Become(a.As.UID, a.As.GID, a.As.Groups); err != nil {
			return err
		}
	}
	if a.NoNewPrivs {
		return sys.NoNewPrivs() // of this thread, which executes the program: init has it locked
	}
	return nil
}
