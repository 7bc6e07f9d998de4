// Command drover runs a server on every core of a machine and keeps it serving.
package main

import (
	"errors"
	"fmt"
	"os"

	"drover"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Run a server on every core, and keep it serving",
		Long: `drover runs one program on every core of a machine and keeps it serving: it
restarts what crashes and reloads without losing a request.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
	})
	root.AddCommand(serveCommand(), runCommand(), listCommand(), statusCommand(), reloadCommand(), restartCommand(), stopCommand())
	err := root.Execute()
	if err != nil {
		fmt.Fprintf(os.Stderr, "drover: %v\n", err)
	}
	os.Exit(exitCode(err))
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
			return usage(fmt.Errorf("%s takes %s, not %d arguments: %s", cmd.CommandPath(), what, len(args), cmd.UseLine()))
		}
		return nil
	}
}
