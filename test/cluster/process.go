// SPDX-License-Identifier: MPL-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// watchdog is a process that outlives this one for a moment: when the pipe to it is closed without a word, however that came, it
// kills the servers that were running and removes the directory.
type watchdog struct {
	mu    sync.Mutex
	shell *exec.Cmd
	pipe  io.WriteCloser
}

const watch = `
live=
while read -r what pid; do
  case $what in
    started) live="$live $pid" ;;
    ended) rest=; for p in $live; do [ "$p" = "$pid" ] || rest="$rest $p"; done; live=$rest ;;
    dismiss) exit 0 ;;
  esac
done
for pid in $live; do kill -9 "-$pid"; done
rm -rf "$1"
`

func newWatchdog(dir string) (*watchdog, error) {
	shell := exec.Command("sh", "-c", watch, "sh", dir)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must not end it before its work is done.
	pipe, err := shell.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &watchdog{shell: shell, pipe: pipe}, shell.Start()
}

func (w *watchdog) tell(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = io.WriteString(w.pipe, line+"\n")
}

func (w *watchdog) started(pid int) { w.tell("started " + strconv.Itoa(pid)) }
func (w *watchdog) ended(pid int)   { w.tell("ended " + strconv.Itoa(pid)) }

func (w *watchdog) dismiss() {
	w.tell("dismiss 0")
	_ = w.pipe.Close()
	_ = w.shell.Wait()
}

// childrenRunning are the ids of the children of a process that run a program of this name.
func childrenRunning(parent int, program string) ([]int, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != strconv.Itoa(parent) || filepath.Base(fields[2]) != program {
			continue
		}
		if pid, err := strconv.Atoi(fields[0]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// processTable has a line "<pid> <parent's pid> <program>" for every process of the system.
func processTable() (string, error) {
	statuses, _ := filepath.Glob("/proc/[0-9]*/stat")
	if len(statuses) == 0 {
		out, err := exec.Command("ps", "-axo", "pid=,ppid=,command=").Output()
		if err != nil {
			return "", fmt.Errorf("finding the plugin's process needs /proc or ps: %w", err)
		}
		return string(out), nil
	}
	var table strings.Builder
	for _, path := range statuses {
		stat, statErr := os.ReadFile(path)
		command, commandErr := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if statErr != nil || commandErr != nil || len(command) == 0 {
			continue // The process has ended meanwhile, or has no command since it is a zombie or the kernel's own.
		}
		// The second field is a name in parentheses that may hold anything; the parent is the second field after it.
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		name, _, _ := strings.Cut(string(command), "\x00")
		fmt.Fprintln(&table, filepath.Base(filepath.Dir(path)), strings.Fields(rest)[1], name)
	}
	return table.String(), nil
}

// heldPorts are two neighbouring ports: Vault takes the second one for its cluster. While they are held, connections to them are
// closed at once, as if nobody listened. They are below those that systems give to outgoing connections, which could otherwise get one
// in the moment in which neither Vault nor this process holds it.
type heldPorts struct {
	port int

	mu        sync.Mutex
	listeners []net.Listener
}

func holdPorts() (*heldPorts, error) {
	for range 100 {
		h := &heldPorts{port: 12_000 + 2*rand.IntN(10_000)}
		if h.take() == nil {
			return h, nil
		}
	}
	return nil, errors.New("no two neighbouring ports are free")
}

func (h *heldPorts) take() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, port := range []int{h.port, h.port + 1} {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return errors.Join(err, h.releaseLocked())
		}
		h.listeners = append(h.listeners, listener)
		go refuseAll(listener)
	}
	return nil
}

func (h *heldPorts) release() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.releaseLocked()
}

func (h *heldPorts) releaseLocked() error {
	var errs []error
	for _, listener := range h.listeners {
		errs = append(errs, listener.Close())
	}
	h.listeners = nil
	return errors.Join(errs...)
}

func refuseAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}
