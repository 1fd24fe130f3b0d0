// SPDX-License-Identifier: MPL-2.0

// Package keylock has locks by key. Waiting for a lock ends with a context.
//
// A lock may be held during calls to a remote service without compare-and-set: it blocks only callers that need the same key,
// and these can give up. Locks end with the process, so nothing that must survive a crash may depend on one.
package keylock

import (
	"context"
	"sync"
)

// Map is a set of locks, one for each key. The zero value is ready to use. A key uses memory only while its lock is held or
// waited for. A Map is safe for concurrent use and must not be copied after first use.
type Map struct {
	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	free chan struct{} // holds one element while the lock is free
	n    int           // how many hold it or wait for it
}

// Lock waits for the lock of the key and returns the function that releases it, which must be called exactly once. If the
// context ends first, Lock returns the context's error and holds nothing. Locks aren't reentrant.
func (m *Map) Lock(ctx context.Context, key string) (unlock func(), err error) {
	m.mu.Lock()
	if m.locks == nil {
		m.locks = make(map[string]*lock)
	}
	l := m.locks[key]
	if l == nil {
		l = &lock{free: make(chan struct{}, 1)}
		l.free <- struct{}{}
		m.locks[key] = l
	}
	l.n++
	m.mu.Unlock()

	leave := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.n--; l.n == 0 {
			delete(m.locks, key)
		}
	}
	select {
	case <-l.free:
		return func() { l.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Waiting returns the number of callers that hold the lock of the key or wait for it.
func (m *Map) Waiting(key string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.locks[key]; l != nil {
		return l.n
	}
	return 0
}

// Len returns the number of keys whose lock is held or waited for.
func (m *Map) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.locks)
}
