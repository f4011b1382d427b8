package node

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay keeps a component that cannot start from burning the machine.
const restartDelay = 500 * time.Millisecond

// Component is what a node tells about one of its components.
type Component struct {
	Name string `json:"name"`
	// PID is the process in the node's PID namespace; 0 when none runs.
	PID int `json:"pid"`
	// Down: it was killed, and stays so until it is restarted.
	Down bool `json:"down,omitempty"`
	// Restarts counts how often it ended by itself and was started again.
	Restarts int `json:"restarts"`
}

// supervisor keeps components running and reaps every process of the PID namespace that has lost its parent.
type supervisor struct {
	logs string

	mu    sync.Mutex
	procs []*process // in the order of their start
}

type process struct {
	Component
	argv []string
	// gone is closed when the running process has ended.
	gone chan struct{}
}

func (s *supervisor) add(c component) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &process{Component: Component{Name: c.name}, argv: c.argv}
	s.procs = append(s.procs, p)
	return s.start(p)
}

// start runs the process of p. The lock is held, so that reap never sees a process before its PID is noted.
func (s *supervisor) start(p *process) error {
	path, err := exec.LookPath(p.argv[0])
	if err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(s.logs, p.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	running, err := os.StartProcess(path, p.argv, &os.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []*os.File{null, out, out},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	p.PID, p.Down, p.gone = running.Pid, false, make(chan struct{})
	return running.Release() // reap waits for it
}

// reap collects every process that has ended, and has components that ended by themselves started again.
func (s *supervisor) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		s.ended(pid, ws)
	}
}

func (s *supervisor) ended(pid int, ws unix.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if p.PID != pid {
			continue
		}
		p.PID = 0
		close(p.gone)
		slog.Info("component ended", "component", p.Name, "pid", pid, "how", ending(ws), "down", p.Down)
		if !p.Down {
			time.AfterFunc(restartDelay, func() { s.again(p) })
		}
	}
}

func ending(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return ws.Signal().String()
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// again starts a component that has ended by itself, unless somebody was faster.
func (s *supervisor) again(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.PID != 0 || p.Down {
		return
	}
	p.Restarts++
	if err := s.start(p); err != nil {
		slog.Error("cannot start again", "component", p.Name, "error", err)
	}
}

// kill ends a component by SIGKILL and waits for its end; it stays down until restart.
func (s *supervisor) kill(name string) error {
	gone, err := s.sigkill(name)
	if err != nil {
		return err
	}
	<-gone
	return nil
}

func (s *supervisor) sigkill(name string) (gone <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.find(name)
	if err != nil {
		return nil, err
	}
	p.Down = true
	if p.PID == 0 {
		return p.gone, nil
	}
	return p.gone, unix.Kill(p.PID, unix.SIGKILL)
}

// restart ends a component by SIGKILL, if it runs, and starts it anew.
func (s *supervisor) restart(name string) error {
	if err := s.kill(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := s.find(name)
	if err != nil || p.PID != 0 {
		return err
	}
	return s.start(p)
}

func (s *supervisor) find(name string) (*process, error) {
	var names []string
	for _, p := range s.procs {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return nil, fmt.Errorf("component %q: the node runs only %q", name, names)
}

func (s *supervisor) list() []Component {
	s.mu.Lock()
	defer s.mu.Unlock()
	var cs []Component
	for _, p := range s.procs {
		cs = append(cs, p.Component)
	}
	return cs
}
