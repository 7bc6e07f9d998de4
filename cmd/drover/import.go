package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drover/config"
	"drover/config/pm2"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// evalTimeout bounds how long an ecosystem file may take to be evaluated by node.
const evalTimeout = 15 * time.Second

func importCommand() *cobra.Command {
	var output, app, env string
	var force bool
	cmd := &cobra.Command{
		Use:   "import [flags] FILE",
		Short: "Make a drover.yaml of PM2's ecosystem file",
		Long: `Make a drover.yaml of each app of PM2's ecosystem file, such as
ecosystem.config.js (evaluated by node), .json or .yaml. What could not be
carried over is listed on standard error, and what to do instead.`,
		Args: takes(1, 1, "one ecosystem file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return importFile(cmd, args[0], output, force, pm2.Options{Only: app, Env: env})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write; of several apps a directory (default: standard output)")
	cmd.Flags().StringVar(&app, "app", "", "only the app of this name")
	cmd.Flags().StringVar(&env, "env", "", "use env_NAME of the apps too, as pm2 start --env NAME does")
	cmd.Flags().BoolVar(&force, "force", false, "write over files that are there")
	return cmd
}

func importFile(cmd *cobra.Command, path, output string, force bool, o pm2.Options) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("import %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return usage(fmt.Errorf("import: %w", err))
	}
	data, err := readEcosystem(cmd.Context(), abs)
	if err != nil {
		return usage(fmt.Errorf("import %s: %w", path, err))
	}
	o.From, o.Dir, o.Root = filepath.Base(path), filepath.Dir(abs), os.DirFS("/")
	o.CPUs, _ = config.CPUs()
	o.Home, _ = os.UserHomeDir() // without one, ~ is the root
	into, asDir, err := target(output)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	o.Base = into
	if output != "" && !asDir {
		o.Base = filepath.Dir(into)
	}
	apps, notes, err := pm2.Convert(data, o)
	switch {
	case err != nil:
		return usage(fmt.Errorf("import: %w", err))
	case output == "" && len(apps) > 1:
		return usage(fmt.Errorf("import: %s has %d apps, %s: want one of them by --app, or a directory by -o", path, len(apps), names(apps)))
	case output != "" && !asDir && len(apps) > 1:
		return usage(fmt.Errorf("import: %s is one file, and %s has %d apps, %s: want one of them by --app, or a directory: -o %s/", output, path, len(apps), names(apps), output))
	}
	if output == "" {
		_, err = cmd.OutOrStdout().Write(apps[0].YAML)
	} else {
		err = writeApps(cmd.ErrOrStderr(), into, asDir, apps, force, info.Mode().Perm()&0o666)
	}
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	for _, n := range notes {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", o.From, n)
	}
	for _, a := range apps {
		for _, n := range a.Notes {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", a.Name, n)
		}
	}
	return nil
}

// target is what -o says, absolute: a directory, where it is one or ends as one;
// without -o the working directory, into which standard output is taken to go.
func target(output string) (path string, dir bool, err error) {
	if path, err = filepath.Abs(output); err != nil {
		return "", false, err
	}
	info, err := os.Stat(path)
	return path, strings.HasSuffix(output, "/") || err == nil && info.IsDir(), nil
}

func names(apps []pm2.App) string {
	var all []string
	for _, a := range apps {
		all = append(all, a.Name)
	}
	return strings.Join(all, ", ")
}

// writeApps writes a file for each app, all or none. The files are as private as
// the one that they are made of: an environment may hold secrets.
func writeApps(told io.Writer, path string, dir bool, apps []pm2.App, force bool, mode fs.FileMode) error {
	paths := make([]string, len(apps))
	for i, a := range apps {
		paths[i] = path
		if dir {
			paths[i] = filepath.Join(path, a.Name+".yaml")
		}
		if slices.Contains(paths[:i], paths[i]) {
			return fmt.Errorf("two apps are called %s: give them different names", a.Name)
		}
		if _, err := os.Lstat(paths[i]); err == nil && !force {
			return fmt.Errorf("%s is there already: nothing was written: want --force to write over it", paths[i])
		}
	}
	if err := os.MkdirAll(filepath.Dir(paths[0]), 0o777); err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	for i, a := range apps {
		f, err := os.OpenFile(paths[i], flags, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(a.YAML)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", paths[i], err)
		}
		fmt.Fprintf(told, "%s: written; drover check -c %s checks it\n", paths[i], paths[i])
	}
	return nil
}

// readEcosystem gives the value of an ecosystem file as JSON.
func readEcosystem(ctx context.Context, path string) ([]byte, error) {
	ext := filepath.Ext(path)
	switch ext {
	case ".js", ".cjs", ".mjs", ".ts":
		return evaluate(ctx, path)
	case ".json", ".json5", ".yaml", ".yml":
	default:
		return nil, fmt.Errorf("its name ends in %q: want .js, .cjs, .mjs, .json or .yaml, as PM2 does", ext)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if ext == ".yaml" || ext == ".yml" {
		return yaml.YAMLToJSON(text)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var plain any
	wrong := json.Unmarshal(text, &plain)
	if wrong == nil {
		return text, nil
	}
	// PM2 reads such files as JavaScript, and so with comments and the like.
	data, err := evaluate(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("it is no JSON (%w), nor the JavaScript that PM2 takes instead: %w", wrong, err)
	}
	return data, nil
}

// evaluator prints the value of the module, or of the expression in a file of
// another kind, to descriptor 3: the file may print what it likes. What JSON has
// not is marked as the package pm2 says.
const evaluator = `
const path = process.argv[1];
const load = async () => {
	if (/\.[cm]?[jt]s$/.test(path)) {
		const m = await import(require('url').pathToFileURL(path));
		return m.default ?? m;
	}
	return (0, eval)('(' + require('fs').readFileSync(path, 'utf8') + '\n)');
};
load().then((value) => {
	const text = JSON.stringify(value, (_, v) =>
		v === undefined ? '\0undefined' : typeof v === 'function' ? '\0function' : typeof v === 'bigint' ? String(v) : v);
	require('fs').writeFileSync(3, text);
	process.exit(0);
}).catch((err) => {
	console.error(err && err.stack || err);
	process.exit(1);
});
`

// evaluate has node evaluate a file.
func evaluate(ctx context.Context, path string) ([]byte, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, errors.New("node, which is to evaluate it, is not in the PATH: install it, or give the file as .json or .yaml")
	}
	ctx, cancel := context.WithTimeout(ctx, evalTimeout)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	c := exec.CommandContext(ctx, node, "-e", evaluator, "--", path)
	c.Dir = filepath.Dir(path)
	c.ExtraFiles = []*os.File{w}
	c.Stdout, c.Stderr = &said, &said
	c.WaitDelay = time.Second // for what the file started, and left
	err = c.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start %s: %w", node, err)
	}
	value := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(r, maxEcosystem+1))
		r.Close() // else node waits for the rest to be read
		value <- data
	}()
	err = c.Wait()
	_ = r.SetReadDeadline(time.Now().Add(time.Second)) // a child of the file's may hold it open
	data := <-value
	switch {
	case len(data) > maxEcosystem:
		return nil, fmt.Errorf("its value has more than %d bytes", maxEcosystem)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("node had not evaluated it after %v: want a file that only says what the apps are", evalTimeout)
	case err != nil:
		return nil, fmt.Errorf("node: %w:\n  %s", err, strings.ReplaceAll(strings.TrimSpace(said.String()), "\n", "\n  "))
	}
	return data, nil
}

// maxEcosystem bounds what an ecosystem file may come to, in bytes.
const maxEcosystem = 4 << 20
