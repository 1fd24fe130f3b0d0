// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// heldLocks are the ranks of the locks that each goroutine holds or waits for.
type heldLocks struct {
	mu     sync.Mutex
	by     map[string][]int
	broken []string
}

// goroutine returns the id of the running goroutine, which only a stack trace tells.
func goroutine() string {
	var buf [64]byte
	fields := bytes.Fields(buf[:runtime.Stack(buf[:], false)])
	return string(fields[1])
}

func (h *heldLocks) trace(rank int, taken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := goroutine()
	held := h.by[id]
	if !taken {
		i := slices.Index(held, rank)
		if i < 0 {
			h.broken = append(h.broken, fmt.Sprintf("a lock of rank %d was released by a goroutine that didn't take it\n%s", rank, debug.Stack()))
			return
		}
		if held = slices.Delete(held, i, i+1); len(held) == 0 {
			delete(h.by, id)
			return
		}
		h.by[id] = held
		return
	}
	if len(held) > 0 && rank <= slices.Max(held) {
		h.broken = append(h.broken, fmt.Sprintf("a lock of rank %d was taken by who holds %v\n%s", rank, held, debug.Stack()))
	}
	h.by[id] = append(held, rank)
}

// TestMain fails when any test has taken locks in another order than that of the list in the mount, or has sent an event that is not as its
// table says.
func TestMain(m *testing.M) {
	held := &heldLocks{by: make(map[string][]int)}
	traceLock = held.trace
	code := m.Run()
	held.mu.Lock()
	defer held.mu.Unlock()
	for _, broken := range held.broken {
		fmt.Fprintln(os.Stderr, broken)
		code = 1
	}
	for _, problem := range allEvents.problems(code == 0 && ranAll()) {
		fmt.Fprintln(os.Stderr, problem)
		code = 1
	}
	os.Exit(code)
}

// TestLockOrderIsChecked shows that the check of TestMain finds what it is for.
func TestLockOrderIsChecked(t *testing.T) {
	t.Parallel()
	h := &heldLocks{by: make(map[string][]int)}
	h.trace(rankSecret, true)
	h.trace(rankConfig, true)
	h.trace(rankConfig, false)
	h.trace(rankSecret, false)
	h.trace(rankRotation, true)
	h.trace(rankRotation, false)
	require.Empty(t, h.broken, "the order of the list")
	require.Empty(t, h.by)

	h.trace(rankConfig, true)
	h.trace(rankSecret, true)
	require.Len(t, h.broken, 1, "another order")
	h.trace(rankSecret, false)
	h.trace(rankConfig, true)
	require.Len(t, h.broken, 2, "the same lock twice")
	h.trace(rankConfig, false)
	h.trace(rankConfig, false)
	h.trace(rankConfig, false)
	require.Len(t, h.broken, 3, "a lock that isn't held")
}
