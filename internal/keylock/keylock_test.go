// SPDX-License-Identifier: MPL-2.0

package keylock

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneHolderForEachKey(t *testing.T) {
	t.Parallel()
	var m Map
	counts := make([]int, 3) // written without other protection, so that the race detector sees two holders
	var group sync.WaitGroup
	for i := range 300 {
		group.Go(func() {
			unlock, err := m.Lock(context.Background(), fmt.Sprint(i%len(counts)))
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			counts[i%len(counts)]++
		})
	}
	group.Wait()
	require.Equal(t, []int{100, 100, 100}, counts)
	require.Zero(t, m.Len(), "nothing is kept of locks that nobody holds")
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var m Map
	unlock, err := m.Lock(t.Context(), "a")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := m.Lock(ctx, "a")
		failed <- err
	}()
	require.Eventually(t, func() bool { return m.Waiting("a") == 2 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Equal(t, 1, m.Waiting("a"))

	other, err := m.Lock(t.Context(), "b")
	require.NoError(t, err, "another key is free")
	other()
	unlock()
	require.Zero(t, m.Len())
	unlock, err = m.Lock(t.Context(), "a")
	require.NoError(t, err, "who gave up left no trace")
	unlock()
}
