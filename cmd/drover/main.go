// Command drover runs a server on every core of a machine and keeps it serving.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"drover"
	"drover/config"
	"drover/worker"

	"github.com/spf13/cobra"
)

func main() {
	err := run()
	if err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			if !strings.HasPrefix(line, " ") { // else it goes on with the one above
				line = "drover: " + line
			}
			fmt.Fprintln(os.Stderr, line)
		}
	}
	os.Exit(exitCode(err))
}

func run() error {
	if worker.Started() {
		return serveAsWorker()
	}
	var path string
	root := &cobra.Command{
		Use:   "drover",
		Short: "Run a server on every core, and keep it serving",
		Long: `drover runs one program on every core of a machine and keeps it serving: it
restarts what crashes and reloads without losing a request.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				hint := "see drover --help"
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					hint = "did you mean " + strings.Join(near, " or ") + "?"
				}
				return usage(fmt.Errorf("unknown command %q: %s", args[0], hint))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return cmd.Help()
			}
			return supervise(func() (*config.File, error) { return config.Load(path) })
		},
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
	})
	root.Flags().StringVarP(&path, "config", "c", "", "run what this file says, such as drover.yaml")
	root.AddCommand(serveCommand(), runCommand(), checkCommand(), importCommand(), listCommand(), statusCommand(), reloadCommand(), restartCommand(), scaleCommand(), sendCommand(), messagesCommand(), stopCommand())
	return root.Execute()
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// exitCode is 0 done, 1 failed while running, 2 usage or configuration, 3 no
// worker ever became ready.
func exitCode(err error) int {
	if errors.As(err, new(usageError)) {
		return 2
	}
	return drover.ExitCode(err)
}

// takes makes the check of a command's arguments a usage error that names what
// it takes.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usage(fmt.Errorf("%s takes %s, got %d: %s", cmd.CommandPath(), what, len(args), cmd.UseLine()))
		}
		return nil
	}
}
