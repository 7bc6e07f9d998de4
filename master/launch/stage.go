package launch

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"drover/internal/sys"
	"drover/ipc"
)

// stageName is the argv[0] by which a child knows that it is the stage.
const stageName = "drover-stage"

// order is what the stage does, in its argv[1].
type order struct {
	Path string `json:"path"` // what to execute when Exec is -1, and for messages
	Exec int    `json:"exec"` // descriptor of the pinned executable
	Dir  int    `json:"dir"`  // descriptor of the working directory
	// Staged is a descriptor whose end tells that the program runs, or -1.
	Staged int `json:"staged"`

	Attributes
}

// init runs before main and before the flags and databases of a program that
// is built on drover are touched: it makes the child the program it was started
// for.
func init() {
	if len(os.Args) < 3 || os.Args[0] != stageName {
		return
	}
	err := stage(os.Args[1], os.Args[2:])
	fmt.Fprintf(os.Stderr, "drover: %v\n", err)
	os.Exit(127) // what a shell answers when it cannot execute a command
}

// stage prepares this process and executes the program. It returns only with an
// error.
func stage(text string, argv []string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("%s was started without its order: %w", stageName, err)
	}
	if err := sys.Fchdir(o.Dir); err != nil {
		return fmt.Errorf("enter the working directory of %s: %w", o.Path, err)
	}
	sys.SetCloexec(o.Dir)
	if o.Staged >= 0 {
		sys.SetCloexec(o.Staged)
	}
	if err := o.take(); err != nil {
		return fmt.Errorf("prepare %s: %w", o.Path, err)
	}
	if os.Getenv(ipc.EnvListenFDs) != "" {
		if err := os.Setenv(ipc.EnvListenPID, strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	path := o.Path
	if o.Exec >= 0 {
		sys.SetCloexec(o.Exec)
		path = fdPath(o.Exec)
	}
	return fmt.Errorf("execute %s: %w", o.Path, sys.Exec(path, argv, os.Environ()))
}
