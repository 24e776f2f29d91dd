// A long call that is given up between tiles: who asks for that (Ctrl-C) is asked now and then.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>

namespace reattend {

/// Thrown where a call is given up.
struct Interrupted : std::exception {};

/// While it lives, the calling thread and those that help it look up between tiles.
class Interruptible {
public:
    /// `asked` says whether to give up; only the calling thread asks it, ten times a second.
    explicit Interruptible(bool (*asked)())
        : asked_(asked), caller_(&current()), outer_(current()), next_(Clock::now() + kPause) {
        current() = this;
    }
    ~Interruptible() { current() = outer_; }
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;

    /// Between tiles: throws Interrupted if the call is to be given up.
    static void check() {
        if (current()) current()->look();
    }

    /// What the calling thread works on, null if nothing that ends early; helpers take it over.
    static Interruptible*& current() {
        thread_local Interruptible* call = nullptr;
        return call;
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds kPause{100};

    void look() {
        if (&current() == caller_ && Clock::now() >= next_) {
            if (asked_()) given_up_ = true;
            next_ = Clock::now() + kPause;
        }
        if (given_up_.load(std::memory_order_relaxed)) throw Interrupted();
    }

    bool (*asked_)();
    Interruptible** caller_;
    Interruptible* outer_;
    Clock::time_point next_;  // the calling thread's alone
    std::atomic<bool> given_up_{false};
};

}  // namespace reattend
