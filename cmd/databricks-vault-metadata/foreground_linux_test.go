// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newTerminal returns the two ends of a terminal.
func newTerminal(t *testing.T) (keyboard, terminal *os.File) {
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { keyboard.Close() })
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0))
	terminal, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { terminal.Close() })
	return keyboard, terminal
}

// buffer is read while it is written.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// counter makes the test binary a command that counts interrupts until it gets SIGTERM.
const counter = "counter"

func init() { commands[counter] = countInterrupts }

func countInterrupts() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	fmt.Println("ready")
	for n := 0; ; n++ {
		if <-signals == syscall.SIGTERM {
			fmt.Println("in all", n)
			os.Exit(0)
		}
		fmt.Println("interrupted")
	}
}

// TestACommandGetsAnInterruptOnce: from the key of the terminal, wherever its standard input comes from, or from whoever sends it to the
// service in the background.
func TestACommandGetsAnInterruptOnce(t *testing.T) {
	for name, c := range map[string]struct {
		foreground bool
		interrupt  func(keyboard *os.File, command *exec.Cmd) error
	}{
		"key":             {true, func(keyboard *os.File, _ *exec.Cmd) error { _, err := keyboard.WriteString("\x03"); return err }},
		"another process": {false, func(_ *os.File, c *exec.Cmd) error { return c.Process.Signal(os.Interrupt) }},
	} {
		t.Run(name, func(t *testing.T) {
			newVaultServer(t, 3600)
			keyboard, terminal := newTerminal(t)
			command := process(t, "-role", "etl", "--", "env", asCommand+"="+counter, os.Args[0])
			command.ExtraFiles = []*os.File{terminal}
			if c.foreground {
				command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
			} else {
				command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
				command.Stdin = terminal
			}
			out, err := command.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, command.Start())
			said := &buffer{}
			read := make(chan struct{})
			go func() { _, _ = io.Copy(said, out); close(read) }()
			says := func(what string) {
				require.Eventually(t, func() bool { return strings.Contains(said.String(), what) }, time.Minute, time.Millisecond)
			}
			says("ready")
			require.NoError(t, c.interrupt(keyboard, command))
			says("interrupted")
			// A second one, if there is one, is there before this: it was sent before.
			require.NoError(t, command.Process.Signal(syscall.SIGTERM))
			<-read
			_ = command.Wait()
			require.Contains(t, said.String(), "in all 1\n")
		})
	}
}
