// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// postgresServer is a PostgreSQL server that asks a judge whether a password is good: by LDAP, where a password may be as long as an access token.
type postgresServer struct {
	bin, dir string
	port     int
}

// startPostgres starts a server, or skips the test where there is none that it can start. go test shows no reason of a skipped test, so
// make test-e2e asks the same script, and prints what it says.
func startPostgres(t *testing.T, judge func(user, password string) bool) *postgresServer {
	t.Helper()
	found, err := exec.Command("../../scripts/find-postgres.sh").Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		t.Skipf("NOT TESTED: no login to a real PostgreSQL server was tried: %s", exit.Stderr)
	}
	require.NoError(t, err)
	bin := strings.TrimSpace(string(found))
	p := &postgresServer{bin: bin}
	p.dir, err = os.MkdirTemp("", "postgres")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(p.dir) })
	as := p.owner(t)
	p.port, err = freePort()
	require.NoError(t, err)

	cluster := filepath.Join(p.dir, "data")
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = p.dir, as
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + p.dir, "LDAPNOINIT=1"}
		return cmd
	}
	out, err := run("initdb", "-D", cluster, "-U", "owner", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8").CombinedOutput()
	require.NoError(t, err, "%s", out)
	rules := fmt.Sprintf("local all owner trust\nhost all all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport=%d ldapprefix=\"cn=\" ldapsuffix=\",o=lakebase\"\n", serveLDAP(t, judge))
	require.NoError(t, os.WriteFile(filepath.Join(cluster, "pg_hba.conf"), []byte(rules), 0o644))
	daemon := run("postgres", "-D", cluster, "-p", strconv.Itoa(p.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+p.dir, "-c", "fsync=off")
	log, err := os.Create(filepath.Join(p.dir, "log"))
	require.NoError(t, err)
	daemon.Stdout, daemon.Stderr = log, log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGINT) // a fast shutdown
		_ = daemon.Wait()
		_ = log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("PostgreSQL says:\n%s", text)
		}
	})
	require.Eventually(t, func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-h", p.dir, "-p", strconv.Itoa(p.port)).Run() == nil
	}, patience, 1e8)
	return p
}

// owner gives the server's files to a user that it may run as, which root isn't.
func (p *postgresServer) owner(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(found.Uid)
		gid, _ := strconv.Atoi(found.Gid)
		require.NoError(t, os.Chown(p.dir, uid, gid))
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	require.Fail(t, "the script found no user that could run PostgreSQL")
	return nil
}

func (p *postgresServer) psql(host, user, password string, more ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, "psql"), append([]string{"-X", "-q", "-A", "-t", "-h", host, "-p", strconv.Itoa(p.port), "-U", user, "-d", "postgres", "-v", "ON_ERROR_STOP=1"}, more...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "PGPASSWORD=" + password, "PGSSLMODE=disable", "LC_ALL=C"}
	return cmd
}

func (p *postgresServer) admin(t *testing.T, sql string) {
	t.Helper()
	out, err := p.psql(p.dir, "owner", "", "-c", sql).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// query logs in and answers the result, or why not.
func (p *postgresServer) query(user, password, sql string) (string, error) {
	out, err := p.psql("127.0.0.1", user, password, "-c", sql).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// session is an open connection.
type session struct {
	in  io.Writer
	out *bufio.Reader
}

func (p *postgresServer) open(t *testing.T, user, password string) *session {
	t.Helper()
	cmd := p.psql("127.0.0.1", user, password)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return &session{in, bufio.NewReader(out)}
}

func (s *session) ask(t *testing.T, sql string) string {
	t.Helper()
	_, err := io.WriteString(s.in, sql+"\n")
	require.NoError(t, err)
	line, err := s.out.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// serveLDAP answers simple binds (RFC 4511, section 4.2) as the judge says, and returns the port.
func serveLDAP(t *testing.T, judge func(user, password string) bool) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				for in := bufio.NewReader(conn); answerBind(in, conn, judge) == nil; {
				}
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

// answerBind reads one request, which must be a bind.
func answerBind(in io.Reader, out io.Writer, judge func(user, password string) bool) error {
	const sequence, integer, text, bind, simple = 0x30, 0x02, 0x04, 0x60, 0x80
	message, err := readTLV(in, sequence)
	if err != nil {
		return err
	}
	rest := strings.NewReader(message)
	id, err := readTLV(rest, integer)
	if err != nil {
		return err
	}
	request, err := readTLV(rest, bind)
	if err != nil {
		return err
	}
	fields := strings.NewReader(request)
	_, versionErr := readTLV(fields, integer)
	name, nameErr := readTLV(fields, text)
	password, err := readTLV(fields, simple)
	if err = errors.Join(versionErr, nameErr, err); err != nil {
		return err
	}
	result := byte(49) // invalidCredentials
	if judge(strings.TrimSuffix(strings.TrimPrefix(name, "cn="), ",o=lakebase"), password) {
		result = 0
	}
	answer := "\x02" + string(byte(len(id))) + id + "\x61\x07\x0a\x01" + string([]byte{result}) + "\x04\x00\x04\x00"
	_, err = io.WriteString(out, "\x30"+string([]byte{byte(len(answer))})+answer)
	return err
}

// readTLV reads the content of an element with the tag (X.690, section 8.1).
func readTLV(in io.Reader, tag byte) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return "", err
	}
	if head[0] != tag {
		return "", fmt.Errorf("tag %#x instead of %#x", head[0], tag)
	}
	size := int(head[1])
	if size&0x80 != 0 {
		long := make([]byte, size&0x7f)
		if _, err := io.ReadFull(in, long); err != nil {
			return "", err
		}
		size = 0
		for _, b := range long {
			size = size<<8 | int(b)
		}
	}
	if size > 1<<16 {
		return "", errors.New("too long")
	}
	content := make([]byte, size)
	_, err := io.ReadFull(in, content)
	return string(content), err
}
