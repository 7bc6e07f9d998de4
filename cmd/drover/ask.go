package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"drover/config"
	"drover/internal/sys"
	"drover/master/admin"

	"github.com/spf13/cobra"
)

// asking makes a command that asks a running master, found by --name.
func asking(use, short string, args cobra.PositionalArgs, ask func(cmd *cobra.Command, c *admin.Client, args []string) error) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := admin.Dial(admin.RuntimeDir(), name)
			if err != nil {
				return err
			}
			return ask(cmd, c, args)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the app; not needed when only one runs")
	return cmd
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the apps that run", Args: takes(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := admin.Names(admin.RuntimeDir())
			if err != nil {
				return err
			}
			if len(names) == 0 {
				fmt.Fprintf(os.Stderr, "no app is running (looked in %s)\n", admin.RuntimeDir())
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPID\tSTATE\tGENERATION\tREADY\tLISTEN")
			for _, name := range names {
				c, err := admin.Dial(admin.RuntimeDir(), name)
				if err != nil {
					return err
				}
				s, err := c.Status(cmd.Context())
				if err != nil {
					fmt.Fprintf(w, "%s\t\t%v\n", name, err)
					continue
				}
				ready := 0
				for _, worker := range s.Workers {
					if worker.State == "ready" {
						ready++
					}
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d/%d\t%s\n", s.Name, s.PID, s.State, s.Generation, ready, len(s.Slots), addresses(s))
			}
			return w.Flush()
		},
	}
}

func addresses(s admin.Status) string {
	text := ""
	for i, l := range s.Listen {
		if i > 0 {
			text += " "
		}
		text += l.Address
	}
	return text
}

func statusCommand() *cobra.Command {
	var asJSON bool
	cmd := asking("status", "Show the workers of a running app", takes(0, 0, "no argument"), func(cmd *cobra.Command, c *admin.Client, _ []string) error {
		s, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
		}
		return printStatus(cmd.OutOrStdout(), s, time.Now())
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}

func printStatus(out io.Writer, s admin.Status, now time.Time) error {
	fmt.Fprintf(out, "%s: %s, pid %d, generation %d, listening on %s, %d requests since its start\n",
		s.Name, s.State, s.PID, s.Generation, addresses(s), s.Totals.Requests)
	for _, l := range s.Listen {
		for _, c := range l.Certificates {
			fmt.Fprintf(out, "%s: certificate of %s, until %s\n", l.Address, strings.Join(c.Names, ", "), c.Until.UTC().Format("2006-01-02 15:04 MST"))
		}
		if l.Steering == config.Spread && l.Why == "" {
			continue // as anyone expects
		}
		fmt.Fprintf(out, "%s: %s", l.Address, l.Steering)
		if l.Slots != nil {
			fmt.Fprintf(out, " over slots %v", l.Slots)
		}
		if l.Why != "" {
			fmt.Fprintf(out, " (%s)", l.Why)
		}
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SLOT\tID\tPID\tGEN\tSTATE\tRESTARTS\tUPTIME\tREQUESTS\tCONNS\tIN FLIGHT\tRSS\tCPU")
	for _, l := range s.Workers {
		requests, conns, inFlight := fmt.Sprint(l.Requests), fmt.Sprint(l.Connections), fmt.Sprint(l.InFlight)
		if l.Sockets > 0 {
			conns += fmt.Sprintf(" (%d upgraded)", l.Sockets)
		}
		if !l.Counted {
			requests, conns, inFlight = "–", "–", "–"
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%d\t%s\t%s\t%s\t%s\t%.1f MiB\t%.1f %%\n", l.Slot, l.ID, l.PID, l.Generation, l.State, l.Restarts,
			time.Duration(l.UptimeSeconds*float64(time.Second)).Round(time.Second), requests, conns, inFlight, float64(l.RSSBytes)/(1<<20), l.CPUPercent)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	tellWaits(out, s, now)
	fmt.Fprintf(out, "drover itself: %.1f MiB, %.1f %% of a CPU, %d goroutines\n", float64(s.Master.RSSBytes)/(1<<20), s.Master.CPUPercent, s.Master.Goroutines)
	if n := len(s.Exits); n > 0 {
		e := s.Exits[n-1]
		fmt.Fprintf(out, "last exit: slot %d, pid %d, %s, %s ago\n", e.Slot, e.PID, e.Reason, now.Sub(e.At).Round(time.Second))
	}
	return nil
}

// tellWaits says what is waited for, and until when.
func tellWaits(out io.Writer, s admin.Status, now time.Time) {
	until := func(at time.Time) string {
		return fmt.Sprintf("%s (in %s)", at.Local().Format("15:04:05.000"), at.Sub(now).Round(time.Millisecond))
	}
	for _, slot := range s.Slots {
		if slot.NextStart != nil {
			fmt.Fprintf(out, "slot %d: restart at %s, after %d early deaths within a minute\n", slot.Slot, until(*slot.NextStart), slot.EarlyDeaths)
		}
		if len(slot.FosteredBy) > 0 {
			fmt.Fprintf(out, "slot %d: the workers of slots %v accept for it\n", slot.Slot, slot.FosteredBy)
		}
	}
	for _, w := range s.Workers {
		if w.Late {
			fmt.Fprintf(out, "slot %d: worker %d misses its heartbeat\n", w.Slot, w.ID)
		}
		if w.Until == nil {
			continue
		}
		switch w.State {
		case "draining":
			fmt.Fprintf(out, "slot %d: worker %d has until %s to finish what it has\n", w.Slot, w.ID, until(*w.Until))
		case "killed":
			fmt.Fprintf(out, "slot %d: worker %d is killed again at %s\n", w.Slot, w.ID, until(*w.Until))
		default:
			fmt.Fprintf(out, "slot %d: worker %d has until %s to be ready\n", w.Slot, w.ID, until(*w.Until))
		}
	}
}

func reloadCommand() *cobra.Command {
	return asking("reload", "Replace every worker by the program as it is now, losing no request", takes(0, 0, "no argument"),
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			if err := c.Reload(cmd.Context()); err != nil {
				return err
			}
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: generation %d serves\n", s.Name, s.Generation)
			return nil
		})
}

func restartCommand() *cobra.Command {
	return asking("restart SLOT", "Replace the worker of one slot, losing no request", takes(1, 1, "a slot's number"),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			slot, err := strconv.Atoi(args[0])
			if err != nil || slot < 0 {
				return usage(fmt.Errorf("restart %q: want a slot's number, such as 0 (drover status lists them)", args[0]))
			}
			if err := c.Restart(cmd.Context(), slot); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: slot %d has a new worker\n", c.Name, slot)
			return nil
		})
}

func scaleCommand() *cobra.Command {
	return asking("scale N", "Change the number of workers, losing no request", takes(1, 1, "a number of workers"),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			workers, err := strconv.Atoi(args[0])
			if err != nil || workers < 1 {
				return usage(fmt.Errorf("scale %q: want a number of workers, at least 1", args[0]))
			}
			if err := c.Scale(cmd.Context(), workers); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d workers serve\n", c.Name, workers)
			return nil
		})
}

func sendCommand() *cobra.Command {
	slot := -1
	cmd := asking("send MESSAGE", "Send a message, a JSON value, to the Node workers of an app", takes(1, 1, "a message"),
		func(cmd *cobra.Command, c *admin.Client, args []string) error {
			if cmd.Flags().Changed("slot") && slot < 0 {
				return usage(fmt.Errorf("--slot %d: want a slot's number, such as 0 (drover status lists them)", slot))
			}
			value, err := admin.Compact([]byte(args[0]))
			if err != nil {
				return usage(err)
			}
			return c.Send(cmd.Context(), slot, value)
		})
	cmd.Flags().IntVar(&slot, "slot", -1, "only to the worker that serves this slot")
	return cmd
}

func messagesCommand() *cobra.Command {
	most := 0
	cmd := asking("messages", "Print what the Node workers of an app send to their primary, until it ends", takes(0, 0, "no argument"),
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			lines := json.NewEncoder(cmd.OutOrStdout())
			lines.SetEscapeHTML(false)
			printed := 0
			err := c.Messages(cmd.Context(), func(m admin.Message) error {
				if err := lines.Encode(m); err != nil {
					return err
				}
				if printed++; printed == most {
					return io.EOF
				}
				return nil
			})
			if err == io.EOF {
				return nil
			}
			return err
		})
	cmd.Flags().IntVarP(&most, "number", "n", 0, "end after so many; 0 is none")
	return cmd
}

func stopCommand() *cobra.Command {
	return asking("stop", "Stop an app; what it has accepted is answered first", takes(0, 0, "no argument"),
		func(cmd *cobra.Command, c *admin.Client, _ []string) error {
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			fd, err := sys.PidfdOpen(s.PID)
			if err != nil {
				return err
			}
			master := os.NewFile(uintptr(fd), "pidfd")
			defer master.Close()
			if err := c.Stop(cmd.Context()); err != nil {
				return err
			}
			if err := sys.AwaitReadable(master); err != nil {
				return fmt.Errorf("wait for the end of process %d: %w", s.PID, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: stopped\n", s.Name)
			return nil
		})
}
